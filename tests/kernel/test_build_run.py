"""RUN: forms, mounts, secrets, networks, users, and what is left of them in the image."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.building import BASE, Project, daemon, project

__all__ = ["daemon", "project"]

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


def output(project: Project, lines: str, *options: str) -> str:
    """What the commands of a Dockerfile print."""
    return project.build(f"FROM BASE\n{lines}\n", "--no-cache", *options).output


@pytest.mark.parametrize(
    ("lines", "printed"),
    [
        ("RUN echo a  b; echo 'c  d'", "a b\nc  d\n"),
        ('RUN ["echo", "$HOME  x"]', "$HOME  x\n"),
        ("RUN <<EOF\necho one\necho two\nEOF", "one\ntwo\n"),
        ("RUN <<EOF\n#!/bin/cat\ntext\nEOF", "#!/bin/cat\ntext\n"),
        ("RUN cat <<A; cat <<B\n1\nA\n2\nB", "1\n2\n"),
        ('SHELL ["/bin/sh", "-xc"]\nRUN true', "+ true\n"),
        ("USER 65534:7\nRUN id -u; id -g", "65534\n7\n"),
        ("WORKDIR /a/b\nRUN pwd", "/a/b\n"),
        ("ARG x=1\nENV y=2\nRUN echo $x$y", "12\n"),
        ("RUN --network=none ls /sys/class/net", "lo\n"),
        ("RUN grep -c . /proc/1/comm; echo $PATH", "1\n/bin\n"),
        ("RUN grep CapEff /proc/self/status | grep -c ffffffff || echo confined", "0\nconfined\n"),
    ],
)
def test_what_commands_see(project: Project, lines: str, printed: str) -> None:
    assert output(project, lines) == printed


def test_networks(project: Project) -> None:
    names = "/".join(sorted(path.name for path in Path("/sys/class/net").iterdir() if path.name in ("lo", "eth0")))
    assert "lo" in names
    assert output(project, "RUN ls /sys/class/net", "--network", "none") == "lo\n"
    assert output(project, "RUN ls /sys/class/net") == "eth0\nlo\n"
    assert (
        output(project, "RUN --network=host hostname", "--network", "none").strip()
        == Path("/etc/hostname").read_text().strip()
    )


def test_what_is_mounted_on_leaves_nothing_in_layers(project: Project, tmp_path: Path) -> None:
    nothing = "RUN true\nRUN --mount=type=tmpfs,target=/usr/lib/deep/x --mount=type=cache,target=/n/c true"
    base = "FROM BASE\nRUN mkdir -p -m 700 /usr/lib /n && touch -d @1600000000 /n /usr/lib /usr"
    before, after = (project.build(lines).image["layers"] for lines in (base, f"{base}\n{nothing}"))
    assert before == after
    # What a command does to the same directories is in its layer.
    some = (
        "RUN --mount=type=cache,target=/n/c chmod 711 /n\nRUN --mount=type=cache,target=/usr/lib/c touch /usr/lib/kept"
    )
    project.build(f"{base}\n{some}", "-o", f"type=tar,dest={tmp_path / 'files.tar'}")
    with tarfile.open(tmp_path / "files.tar") as archive:
        told = {member.name: (member.mode, member.mtime) for member in archive}
    assert (told["n"], told["usr"][1]) == ((0o711, 1_600_000_000), 1_600_000_000)
    assert "usr/lib/kept" in told
    assert not {"n/c", "usr/lib/c", "usr/lib/deep", "etc/hosts", "etc/resolv.conf"} & told.keys()
    for line, names in (("RUN chmod 711 /n", {"n"}), ("RUN touch /usr/lib/kept", {"usr", "usr/lib", "usr/lib/kept"})):
        project.build(f"{base}\n{line}")
        assert layer_names(project, tmp_path) == names


def layer_names(project: Project, directory: Path) -> set[str]:
    """What is in the topmost layer of the image."""
    project.daemon.cli("save", "-o", str(directory / "saved.tar"), "app:1")
    with tarfile.open(directory / "saved.tar") as saved:
        index = json.load(saved.extractfile("manifest.json"))  # type: ignore[arg-type]
        with tarfile.open(fileobj=saved.extractfile(index[0]["Layers"][-1])) as layer:
            return set(layer.getnames())


def test_what_is_around_commands(project: Project) -> None:
    options = (
        "--add-host",
        "registry.test:192.0.2.1",
        "--add-host",
        "six.test:[2001:db8::1]",
        "--ulimit",
        "nofile=100:200",
    )
    memory = "df -k /dev/shm | tail -1 | awk '{print $2}'; stat -c %a /dev/shm"
    look = f"RUN grep test /etc/hosts | tr '\\t' ' '; ulimit -n; ulimit -Hn; {memory}"
    told = output(project, look, *options, "--shm-size", "1m").splitlines()
    assert told == ["192.0.2.1 registry.test", "2001:db8::1 six.test", "100", "200", "1024", "1777"]
    assert output(project, look).splitlines()[-2:] == ["65536", "1777"]
    lines = "FROM BASE\nRUN grep -c registry.test /etc/hosts; true\n"
    steps = [project.build(lines, *each).steps for each in ((), options, (), options)]
    name = "RUN grep -c registry.test /etc/hosts; true"
    assert [each[name] for each in steps] == ["done", "done", "cached", "cached"]


def test_a_cache_mount_stays_and_is_no_part_of_the_image(project: Project) -> None:
    lines = "RUN --mount=type=cache,target=/c,id=counter{n} echo x >>/c/n; wc -l </c/n"
    first, second = lines.format(n=1), lines.format(n=2)
    assert [output(project, line).strip() for line in (first, first, second, first)] == ["1", "2", "1", "3"]
    assert "c" not in project.run("ls", "-A", "/").split()
    attributes = "RUN --mount=type=cache,target=/d,uid=7,gid=8,mode=0700,sharing=locked stat -c '%u:%g %a' /d"
    assert output(project, attributes) == "7:8 700\n"
    project.daemon.cli("builder", "prune", "-a")
    assert output(project, first).strip() == "1"


def test_a_cache_mount_that_begins_with_files(project: Project) -> None:
    lines = (
        "FROM BASE AS s\nRUN mkdir -p /made/d && echo {0} >/made/d/f && touch /made/file\nFROM BASE\nENV TRY={1}\n"
        "RUN --mount=type=cache,target=/c,from=s,source=/made,uid=7,mode=0750 cat /c/d/f; ls /c; stat -c '%u %a' /c; echo x >/c/kept\n"
        f"RUN --mount=type=cache,target=/c,from={BASE} ls /c/etc\n"
    )
    first = ["1", "d", "file", "7", "750", "group", "passwd"]
    assert project.build(lines.format(1, "a")).output.split() == first
    assert project.build(lines.format(1, "b")).output.split() == [*first[:3], "kept", *first[3:]]
    # Another beginning is another cache.
    assert project.build(lines.format(2, "c")).output.split() == ["2", *first[1:]]
    lost = project.build(lines.format(1, "d").replace("source=/made", "source=/made/file"), check=False)
    assert "Dockerfile:5: RUN --mount=type=cache,source=made/file: not a directory" in lost.error
    assert "c" not in project.run("ls", "-A", "/").split()


def test_a_bind_mount_of_the_context(project: Project) -> None:
    project.write({"src/a": "1", "src/b": "2", "one": "3"})
    lines = (
        "WORKDIR /w\nRUN --mount=source=src,target=/s cat /s/a /s/b; touch /s/x 2>/dev/null || echo read-only\n"
        "RUN --mount=source=one,target=two cat /w/two\nRUN --mount=target=/all ls /all"
    )
    assert output(project, lines) == "12read-only\n3Dockerfile\none\nsrc\n"
    assert project.run("sh", "-c", "ls -A /w; ls -d /s /all 2>&1 | grep -c 'No such'") == "2"
    project.write({"src/a": "9"})
    built = project.build()
    assert "92" in built.output


def test_a_bind_mount_of_a_stage_and_an_image(project: Project) -> None:
    built = project.build(
        f"FROM BASE AS s\nRUN mkdir /made && echo 1 >/made/f\nFROM BASE\n"
        f"RUN --mount=from=s,source=/made,target=/m cat /m/f\nRUN --mount=from={BASE},target=/i ls /i/etc\n"
    )
    assert built.output == "1\ngroup\npasswd\n"


def test_what_is_written_to_a_bind_mount_is_lost(project: Project) -> None:
    project.write({"src/a": "1", "src/d/b": "2", "one": "3"})
    write = "echo x >{0}/new && echo y >>{0}/a && rm -r {0}/d && ls {0} && stat -c %a {0}"
    dockerfile = (
        "FROM BASE AS s\nRUN mkdir -p /made/d && echo 1 >/made/a && chown -R 7:8 /made && chmod 750 /made\nFROM BASE\n"
        f"RUN --mount=source=src,target=/s,rw {write.format('/s')}\n"
        f"RUN --mount=from=s,source=/made,target=/m,readonly=false {write.format('/m')}; stat -c %u:%g /m /m/a\n"
        "RUN --mount=source=one,target=/one,rw echo 4 >>/one && cat /one && cp /one /kept\n"
        f"RUN --mount=from={BASE},target=/i,rw touch /i/new /i/etc/new && ls /i/etc\n"
        "WORKDIR /w\nRUN --mount=target=.,rw rm -r src && ls\nRUN --mount=source=src,target=/s cat /s/a /s/d/b\n"
    )
    built = project.build(dockerfile, "--no-cache")
    told = "a new 755 a new 750 7:8 7:8 34 group new passwd Dockerfile one 12"
    assert built.output.split() == told.split()
    assert project.run("sh", "-c", "cat /kept; ls -d /s /m /i /one 2>/dev/null; true") == "34"
    assert list((project.daemon.root / "build" / "copies").iterdir()) == []
    lost = project.build("FROM BASE AS s\nFROM BASE\nRUN --mount=from=s,source=lost,target=/x,rw true\n", check=False)
    assert "Dockerfile:3: " in lost.error
    assert "lost: no such file or directory" in lost.error
    failed = project.build("FROM BASE\nWORKDIR /w\nRUN --mount=target=.,rw mkdir -p x/y && exit 3\n", check=False)
    assert "exit code 3" in failed.error
    assert list((project.daemon.root / "build" / "copies").iterdir()) == []


def test_a_tmpfs_mount(project: Project) -> None:
    lines = "RUN --mount=type=tmpfs,target=/t,size=1m touch /t/x; grep ' /t ' /proc/mounts | grep -o size=1024k\n"
    lines += "RUN ls -d /t 2>/dev/null || echo gone"
    assert output(project, lines).splitlines()[-1] == "gone"


def test_secrets_are_nowhere_but_in_the_command(project: Project, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hush-hush")
    dockerfile = (
        "FROM BASE\nRUN --mount=type=secret,id=t cat /run/secrets/t | wc -c; stat -c %a /run/secrets/t\n"
        "RUN --mount=type=secret,id=t,env=TOKEN --mount=type=secret,id=t,target=/x/y,mode=444,uid=5 echo ${#TOKEN}; stat -c %u:%a /x/y\n"
        "RUN --mount=type=secret,id=other ls /run/secrets/other 2>/dev/null || echo none\nRUN ls -A /run /x 2>/dev/null || echo clean"
    )
    project.write({".dockerignore": "token"})
    built = project.build(dockerfile, "--secret", f"id=t,src={tmp_path / 'token'}")
    assert built.output == "9\n400\n9\n5:444\nnone\nclean\n"
    root = project.daemon.root
    kept = [root / "graph.db", root / "graph.db-wal", project.daemon.log]
    kept += [path for name in ("content", "build", "containers") for path in (root / name).rglob("*") if path.is_file()]
    files = [path for path in kept if path.exists()]
    assert not [path for path in files if b"hush-hush" in path.read_bytes()]
    # Another value is no reason to do it again.
    (tmp_path / "token").write_text("hush-more")
    again = project.build("", "--secret", f"id=t,src={tmp_path / 'token'}")
    assert set(list(again.steps.values())[1:-1]) == {"cached"}


def test_what_running_needs_leaves_no_trace(project: Project, tmp_path: Path) -> None:
    """A root file system that has nothing gets nothing from being run in but what the command made."""
    busybox = Path("/bin/busybox").read_bytes()
    project.write({"busybox": busybox})
    (project.directory / "busybox").chmod(0o755)
    project.build('FROM scratch\nCOPY busybox /busybox\nRUN ["/busybox", "mkdir", "/made"]\n')
    blob = max(
        (project.daemon.root / "content/blobs/sha256").iterdir(),
        key=lambda path: path.stat().st_ctime_ns if _is_layer(path) else 0,
    )
    with tarfile.open(blob) as tar:
        assert tar.getnames() == ["made"]


def _is_layer(path: Path) -> bool:
    return path.read_bytes()[:2] == b"\x1f\x8b"


def test_a_directory_that_is_there_is_no_layer(project: Project) -> None:
    built = project.build("FROM BASE\nWORKDIR /tmp\nWORKDIR ..\nWORKDIR etc\n")
    assert len(built.image["layers"]) == 1


def test_deletions_and_hard_links_are_kept(project: Project) -> None:
    project.build("FROM BASE\nRUN mkdir /d; echo 1 >/d/a; ln /d/a /d/b; echo x >/gone\nRUN rm /gone; rm -r /www\n")
    assert project.run("sh", "-c", "ls -d /gone /www 2>&1 | grep -c 'No such'; stat -c %h /d/a") == "2\n2"


def test_proxies_are_given_and_not_kept(project: Project) -> None:
    dockerfile = "FROM BASE\nRUN echo $HTTP_PROXY\n"
    built = project.build(dockerfile, "--build-arg", "HTTP_PROXY=http://p.example", "--no-cache")
    assert built.output == "http://p.example\n"
    assert "p.example" not in project.daemon.out("inspect", "app:1")
    again = project.build("", "--build-arg", "HTTP_PROXY=http://q.example")
    assert again.steps["RUN echo $HTTP_PROXY"] == "cached"


def test_unused_build_arguments_are_told(project: Project) -> None:
    assert project.build("FROM BASE\n", "--build-arg", "NOT=1").warnings == ["build arguments that no ARG takes: NOT"]


def test_plain_progress(project: Project) -> None:
    project.write({"Dockerfile": f"FROM {BASE} AS b\nRUN echo out\nRUN exit 3\n"})
    done = project.daemon.cli("build", "--progress", "plain", "--no-cache", str(project.directory), check=False)
    lines = done.stderr.splitlines()
    assert lines[0] == f"#1 [b 1/3] FROM {BASE} AS b"
    assert next(line for line in lines if line.startswith("#2 ")) == "#2 [b 2/3] RUN echo out"
    assert any(line.startswith("#2 ") and line.endswith(" out") for line in lines)
    assert any(line.startswith("#2 DONE ") for line in lines)
    assert "#3 ERROR Dockerfile:3: RUN exit 3: exit code 3" in lines
    assert lines[-2] == "moorage: Dockerfile:3: RUN exit 3: exit code 3"
