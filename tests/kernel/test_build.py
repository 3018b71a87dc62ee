"""Builds on a real daemon: steps, stages, the cache, what is left when a build fails or dies."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.building import BASE, Project, daemon, project
from tests.daemon import Daemon
from tests.images import build_busybox, push, tar_layer
from tests.registry import LoopbackRegistry

__all__ = ["daemon", "project"]

pytestmark = pytest.mark.kernel


def test_a_build_from_first_to_last(project: Project) -> None:
    project.write({"src/a.txt": "A", "src/deep/b.txt": "B", "entry": "#!/bin/sh\necho $GREETING $1 from $(pwd)\n"})
    (project.directory / "entry").chmod(0o755)
    built = project.build(
        """FROM BASE AS base
ARG NAME=nobody
ENV GREETING="hello $NAME"
RUN echo app:x:1234:1234::/:/bin/sh >>/etc/passwd && echo app:x:1234: >>/etc/group && echo "$NAME" > /name
WORKDIR /work/dir
COPY src ./
COPY --chown=app:app --chmod=640 src/a.txt /owned/
COPY entry /bin/entry
USER app
EXPOSE 80
LABEL a=1
VOLUME /data
STOPSIGNAL SIGQUIT
HEALTHCHECK CMD true
ENTRYPOINT ["entry"]
CMD ["world"]
""",
        "--build-arg",
        "NAME=moor",
        "--label",
        "b=2",
    )
    assert set(built.steps.values()) == {"done"}
    assert project.run() == "hello moor world from /work/dir"
    assert project.run("you") == "hello moor you from /work/dir"
    look = ("run", "--rm", "--entrypoint", "sh", "app:1", "-c")
    script = "cat a.txt deep/b.txt /name; id -u; stat -c '%U:%G %a' /owned/a.txt; stat -c %u:%g:%a /owned /work/dir"
    assert project.daemon.out(*look, script).split() == ["ABmoor", "1234", "app:app", "640", "1234:1234:755", "0:0:755"]
    image = project.daemon.inspect("app:1")
    assert (image["labels"], image["config"]["volumes"], image["config"]["stop_signal"]) == (
        {"a": "1", "b": "2"},
        ["/data"],
        "SIGQUIT",
    )
    history = json.loads(project.daemon.out("history", "--format", "json", "app:1"))
    assert [step["created_by"] for step in history][:2] == ['CMD ["world"]', 'ENTRYPOINT ["entry"]']
    assert project.daemon.out("ps", "-aq") == ""


def test_a_check_builds_nothing(project: Project) -> None:
    clean = project.build("FROM nowhere.example/none:1\nRUN false\n", "--check", tag="checked:1", check=False)
    assert (clean.code, clean.warnings, clean.steps) == (0, [], {})
    found = project.build("FROM BASE\nENV A b\nCMD x\n", "--check", tag="checked:1", check=False)
    assert (found.code, len(found.warnings), found.steps) == (1, 2, {})
    assert found.warnings[0] == "Dockerfile:2: ENV: write name=value (LegacyKeyValueFormat)"
    wrong = project.build("FROM BASE\nCOPY --from=9 a b\n", "--check", tag="checked:1", check=False)
    assert (wrong.code, "Dockerfile:2: COPY --from=9: no such stage" in wrong.error) == (1, True)
    assert "checked" not in project.daemon.out("images")


def test_stages_run_side_by_side_and_only_those_needed(project: Project) -> None:
    # Each waits for the other: one after the other, neither would end.
    wait = "RUN --mount=type=cache,target=/meet touch /meet/{0}; until [ -e /meet/{1} ]; do sleep 0.05; done; echo {0} >/{0}"
    built = project.build(
        f"""FROM BASE AS left
{wait.format("left", "right")}
FROM BASE AS right
{wait.format("right", "left")}
FROM BASE AS never
RUN false
FROM scratch
COPY --from=left /left /
COPY --from=1 /right /
COPY --from=BASE /bin/busybox /bin/cat
""",
    )
    assert "RUN false" not in built.steps
    assert project.run("/bin/cat", "/left", "/right").split() == ["left", "right"]
    project.daemon.cli("builder", "prune", "--all")


def test_a_target_and_a_dockerfile_elsewhere(project: Project, tmp_path: Path) -> None:
    project.write({"other/My.dockerfile": f"FROM {BASE} AS one\nRUN echo 1 >/n\nFROM one AS two\nRUN echo 2 >/n\n"})
    project.build("", "-f", str(tmp_path / "other/My.dockerfile"), "--target", "one")
    assert project.run("cat", "/n") == "1"
    project.daemon.cli("build", "-t", "stdin:1", "-", stdin=f"FROM {BASE}\nRUN echo 3 >/n\n")
    assert project.run("cat", "/n", tag="stdin:1") == "3"
    done = project.daemon.cli(
        "build", "-q", "--iidfile", str(tmp_path / "id"), "-f", "-", str(tmp_path), stdin=f"FROM {BASE}"
    )
    assert done.stdout.strip() == (tmp_path / "id").read_text()


DOCKERFILE = """FROM BASE
RUN date +%N >/first
COPY a /a
RUN date +%N >/second
ENV X=1
COPY b /b
"""


def test_the_cache_is_keyed_on_contents(project: Project) -> None:
    project.write({"a": "1", "b": "1"})
    first = project.build(DOCKERFILE)
    again = project.build()
    assert set(list(again.steps.values())[1:-1]) == {"cached"}
    assert again.image["id"] == first.image["id"]
    # A new time is no new content, a new mode is.
    project.write({"a": "1"})
    assert project.build().steps["COPY a /a"] == "cached"
    project.write({"b": "2"})
    changed = project.build().steps
    assert (changed["RUN date +%N >/second"], changed["COPY b /b"]) == ("cached", "done")
    project.write({"b": "1", "a": "2"})
    changed = project.build().steps
    assert [changed[name] for name in ("RUN date +%N >/first", "COPY a /a", "RUN date +%N >/second")] == [
        "cached",
        "done",
        "done",
    ]
    project.write({"a": "1"})
    assert project.build().image["id"] == first.image["id"]
    assert project.build("", "--no-cache").image["id"] != first.image["id"]


def test_the_same_context_by_another_name_is_cached(project: Project, tmp_path: Path) -> None:
    project.write({"x/a": "same"})
    project.build("FROM BASE\nCOPY x/ /to/\n")
    other = Project(project.daemon, tmp_path / "other")
    other.write({"y/a": "same"})
    assert other.build("FROM BASE\nCOPY y/ /to/\n").steps["COPY y/ /to/"] == "cached"


def test_only_what_is_lacking_is_sent(project: Project) -> None:
    project.write({"large": b"x" * 5_000_000, "small": "1"})
    project.build("FROM scratch\nCOPY . /\n")
    blobs = project.daemon.root / "content" / "blobs" / "sha256"
    before = {path.name: path.stat().st_mtime_ns for path in blobs.iterdir()}
    project.write({"small": "quite new"})
    project.build()
    after = {path.name: path.stat().st_mtime_ns for path in blobs.iterdir()}
    new = [path for path in blobs.iterdir() if path.name not in before]
    assert all(before[name] == after[name] for name in before)
    assert b"quite new" in [path.read_bytes() for path in new]


def test_a_failing_command_tells_where_and_leaves_no_name(project: Project) -> None:
    built = project.build("FROM BASE\nRUN echo 1\nRUN echo why >&2; exit 3\n", tag="failed:1", check=False)
    assert built.code == 1
    assert "Dockerfile:3: RUN echo why >&2; exit 3: exit code 3" in built.error
    assert built.steps["RUN echo why >&2; exit 3"] == "failed"
    assert built.output.endswith("why\n")
    assert "failed" not in project.daemon.out("images")
    assert project.daemon.out("ps", "-aq") == ""
    assert project.build(check=False).steps["RUN echo 1"] == "cached"


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        (
            "FROM BASE AS build\nFROM BASE\nCOPY --from=bulid /a /b\n",
            'Dockerfile:3: COPY --from=bulid: no such stage (did you mean "build"?)',
        ),
        ("FROM BASE\nCOPY nothing /x\n", "Dockerfile:2: COPY nothing: no such file in the context"),
        ("FROM BASE\nCOPY --from=BASE /nothing /x\n", "Dockerfile:2: COPY --from: nothing: no such file or directory"),
        (
            "FROM BASE\nCOPY --chown=nobody-here . /x/\n",
            "unable to find user nobody-here: no matching entries in passwd file",
        ),
        ('FROM BASE\nRUN ["/nothing"]\n', "Dockerfile:2: "),
        ("FROM registry.example/test/missing:1\n", "Dockerfile:1: "),
        ("FROM BASE\nRUN --mount=type=tmpfs,target=/proc/sys true\n", "/proc/sys is in /proc, where only the kernel"),
        ("FROM BASE\nCOPY Dockerfile /bin\nCOPY Dockerfile /bin/Dockerfile/x/\n", "is not a directory"),
        (
            "FROM BASE\nRUN --mount=type=secret,id=k,required=true true\n",
            "Dockerfile:2: RUN --mount=type=secret,id=k: no such secret was given",
        ),
        (
            "FROM BASE\nRUN --network=none true\nRUN --network=lost true\n",
            "Dockerfile:3: RUN --network=lost: unknown network",
        ),
    ],
)
def test_errors_name_the_place(project: Project, dockerfile: str, message: str) -> None:
    built = project.build(dockerfile, check=False)
    assert built.code == 1
    assert message in built.error


def test_a_build_that_is_interrupted_ends_its_containers(project: Project) -> None:
    project.write({"Dockerfile": f"FROM {BASE}\nRUN echo begun; sleep 1000\n"})
    client = project.daemon.popen("build", "--progress", "json", "-t", "late:1", str(project.directory))
    assert client.stdout is not None
    while b"begun" not in (line := client.stdout.readline()) or b'"output"' not in line:
        assert line, "the build ended"
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=30)
    assert client.returncode == 130
    end = time.monotonic() + 30
    while project.daemon.out("ps", "-aq") and time.monotonic() < end:
        time.sleep(0.05)
    assert project.daemon.out("ps", "-aq") == ""
    assert "late" not in project.daemon.out("images")
    containers = project.daemon.root / "overlay" / "containers"
    assert not containers.exists() or list(containers.iterdir()) == []


def test_a_daemon_that_is_killed_leaves_what_the_next_one_collects(own_daemon: Daemon, tmp_path: Path) -> None:
    project = Project(own_daemon, tmp_path)
    project.write({"Dockerfile": f"FROM {BASE}\nRUN echo 1 >/one\nRUN echo begun; sleep 1000\n"})
    client = own_daemon.popen("build", "--progress", "json", "-t", "late:1", str(tmp_path))
    assert client.stdout is not None
    while b"begun" not in (line := client.stdout.readline()) or b'"output"' not in line:
        assert line, "the build ended"
    own_daemon.kill()
    client.communicate(timeout=30)
    own_daemon.start()
    assert own_daemon.out("ps", "-aq") == ""
    assert "late" not in own_daemon.out("images")
    assert list((own_daemon.root / "overlay" / "containers").iterdir()) == []
    assert list((own_daemon.root / "build" / "scripts").iterdir()) == []
    built = project.build("FROM BASE\nRUN echo 1 >/one\nRUN echo 2 >/two\n")
    assert built.steps["RUN echo 1 >/one"] == "cached"
    assert project.run("cat", "/one", "/two").split() == ["1", "2"]
    own_daemon.cli("rmi", "app:1")
    assert own_daemon.out("builder", "prune").startswith("2 steps forgotten")
    # Only the image's one layer is left.
    assert len(list((own_daemon.root / "overlay" / "layers").iterdir())) == 1


def test_pruning_keeps_what_images_hold(project: Project) -> None:
    project.build("FROM BASE\nRUN echo kept >/kept\n", tag="kept:1")
    project.daemon.cli("builder", "prune")
    assert project.run("cat", "/kept", tag="kept:1") == "kept"
    assert project.build(tag="kept:1").steps["RUN echo kept >/kept"] == "done"


def test_reproducible_output(project: Project) -> None:
    project.write({"a": "1"})
    dockerfile = "FROM BASE\nRUN echo 1 >/one; mkdir /d; touch /d/x\nCOPY a /a\nWORKDIR /w\n"
    epoch = ("--build-arg", "SOURCE_DATE_EPOCH=1700000000")
    first = project.build(dockerfile, *epoch, tag="first:1")
    second = project.build("", *epoch, "--no-cache", tag="second:1")
    assert second.steps["COPY a /a"] == "done"
    assert first.image["id"] == second.image["id"]
    assert first.image["created_at"] == "2023-11-14T22:13:20Z"
    assert project.run("stat", "-c", "%Y", "/one", "/d", "/a", "/w", tag="second:1").split() == ["1700000000"] * 4


def test_triggers_of_the_image_built_upon(project: Project) -> None:
    project.write({"a": "1"})
    project.build("FROM BASE\nONBUILD COPY a /a\nONBUILD RUN cp /a /b\n", tag="parent:1")
    built = project.build("FROM parent:1\nCMD cat /b\n", tag="child:1")
    assert list(built.steps) == ["FROM parent:1", "COPY a /a", "RUN cp /a /b", "exporting to image"]
    assert project.run(tag="child:1") == "1"


def test_another_platform_is_refused(project: Project) -> None:
    built = project.build("FROM BASE\n", "--platform", "linux/s390x", check=False)
    assert "platform linux/s390x is not offered: images are built for this host" in built.error


@pytest.mark.slow
def test_the_base_is_pulled_again_when_asked_for(project: Project, registry: LoopbackRegistry) -> None:
    def push_base(version: str) -> None:
        push(registry.url, "test/moving", "1", build_busybox(extra_layers=[tar_layer({"version": version.encode()})]))

    dockerfile = "FROM registry.example/test/moving:1\nRUN cp /version /copy\n"
    push_base("one")
    project.build(dockerfile)
    push_base("two")
    assert project.build().steps["RUN cp /version /copy"] == "cached"
    assert project.run("cat", "/copy") == "one"
    assert project.build("", "--pull").steps["RUN cp /version /copy"] == "done"
    assert project.run("cat", "/copy") == "two"
    # It has the name from now on.
    assert project.build().steps["RUN cp /version /copy"] == "cached"
    assert "Dockerfile:1: " in project.build("FROM registry.example/test/gone:1\n", "--pull", check=False).error


def test_an_image_tells_another_daemon_of_its_steps(
    own_daemon: Daemon, project: Project, registry: LoopbackRegistry
) -> None:
    """Inline cache: what one daemon built and pushed, another finds done."""
    project.write({"a": "1"})
    dockerfile = "FROM BASE\nRUN date +%N >/n\nCOPY a /a\n"
    name = f"{registry.host}/test/cached:1"
    first = project.build(dockerfile, "--cache-to", "inline", tag=name)
    project.daemon.cli("push", name)
    other = Project(own_daemon, project.directory)
    second = other.build("", "--cache-from", name, "--cache-to", "inline", tag=name)
    assert [second.steps[step] for step in ("RUN date +%N >/n", "COPY a /a")] == ["cached", "cached"]
    assert second.image["id"] == first.image["id"]
    missing = other.build("", "--cache-from", "registry.example/test/missing:1")
    assert "no cache from registry.example/test/missing:1" in missing.warnings[0]
