"""The root file system and mounts of real containers."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from moorage.server.libcontainer import emptyroom, syscalls
from moorage.server.libcontainer.process import StartError
from tests.supervised import DEV, PROC, SYS, Image, begin, command, config, image, run, supervised

pytestmark = pytest.mark.kernel

__all__ = ["image"]


def sh(script: str, **fields: Any) -> dict[str, Any]:
    return command("sh", "-c", script, **fields)


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def mounts_of(output: str) -> dict[str, tuple[str, set[str]]]:
    """Type and options by mount point, from `mount`."""
    found = {}
    for line in output.splitlines():
        _, _, point, _, kind, options = line.split(" ", 5)
        found[point] = (kind, set(options.strip("()").split(",")))
    return found


@supervised
def test_mounts(image: Image) -> None:
    extra = [
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=1m"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        },
        {"destination": "/run/x", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "noatime"]},
    ]
    namespaces = [{"type": kind} for kind in ("pid", "mount", "cgroup")]
    found = mounts_of(run(image, config(command("mount"), mounts=extra, namespaces=namespaces)).output)
    assert found["/"][0] == "overlay" and "rw" in found["/"][1]
    assert found["/proc"] == ("proc", {"rw", "nosuid", "nodev", "noexec", "relatime"})
    assert found["/sys"] == ("sysfs", {"ro", "nosuid", "nodev", "noexec", "relatime"})
    assert found["/dev/mqueue"][0] == "mqueue"
    assert {"noatime", "size=64k"} <= found["/run/x"][1] and "nosuid" not in found["/run/x"][1]
    assert {"mode=1777", "size=1024k"} - found["/dev/shm"][1] <= {"mode=1777"}
    cgroups = {point: mount for point, mount in found.items() if point.startswith("/sys/fs/cgroup")}
    assert cgroups and all({"ro", "nosuid", "nodev", "noexec"} <= options for _, options in cgroups.values())
    assert {kind for kind, _ in cgroups.values()} <= {"tmpfs", "cgroup", "cgroup2"}


@supervised
def test_default_devices_and_links(image: Image) -> None:
    devices = [{"path": "/dev/a/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 3, "gid": 4}]
    script = """
        cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty; ls -l a
        for link in fd stdin stdout stderr ptmx; do busybox readlink $link; done
    """
    lines = run(image, config(sh(script), devices=devices)).output.splitlines()
    numbers = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"}
    assert lines[:6] == [f"{name} {number} 666" for name, number in numbers.items()]
    assert lines[7].split()[:6] == ["crw-rw----", "1", "3", "4", "10,", "229"]
    assert lines[8:] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]


@supervised
def test_masked_and_read_only_paths(image: Image) -> None:
    masked = ["/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/nosuch", "/etc/secret"]
    (image.lower / "etc/secret").write_text("secret")
    script = """
        cat /proc/keys /proc/timer_list /etc/secret; ls /sys/firmware; chmod 0 /etc/secret || echo kept
        echo x > /proc/sys/kernel/core_pattern || echo protected; mount | busybox grep -c ' /proc/'
    """
    asked = sh(script)
    result = run(image, config(asked, maskedPaths=masked, readonlyPaths=["/proc/sys", "/proc/bus", "/proc/nosuch"]))
    lines = [line for line in result.output.splitlines() if not line.startswith(("chmod", "sh:"))]
    assert lines == ["kept", "protected", "4"], result.output


@supervised
def test_masked_directories_are_empty_and_stay_so(image: Image) -> None:
    for name in ("srv/one/deep", "srv/two", "srv/three"):
        (image.lower / name).mkdir(parents=True)
        (image.lower / name / "secret").write_text("secret")
    masked = ["/srv/one", "/srv/one/deep", "/srv/two", "/srv/three"]
    script = "cd /srv; ls -A one three two; for name in one two three; do touch $name/x || echo kept $name; done"
    lines = run(image, config(sh(script), maskedPaths=masked)).output.splitlines()
    told = [line for line in lines if line and not line.startswith(("touch", "sh:"))]
    assert told == ["one:", "three:", "two:", "kept one", "kept two", "kept three"], lines


@supervised
def test_read_only_root(image: Image) -> None:
    asked = {
        **config(sh("echo x > /etc/x || echo x > /dev/x && echo dev; pwd", cwd="/made")),
        "root": {"readonly": True},
    }
    assert run(image, asked).output.splitlines()[-2:] == ["dev", "/made"]


@supervised
def test_binds(image: Image, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "below").mkdir(parents=True)
    (volume / "file").write_text("content")
    syscalls.mount("inner", str(volume / "below"), "tmpfs", 0, "")
    mounts = [
        bind(volume, "/rw", "nosuid", "nodev"),
        bind(volume, "/ro", "ro"),
        bind(volume, "/rro", "rro"),
        bind(volume / "file", "/etc/deep/file", "ro"),
        {**bind(volume, "/one"), "options": ["bind"]},
    ]
    script = """
        for file in /rw/a /ro/b /ro/below/c /rro/below/d /etc/deep/file; do echo 1 > $file; done
        cat /etc/deep/file; mount
    """
    output = run(image, config(sh(script), mounts=mounts)).output
    found = mounts_of(output.partition("content")[2])
    assert {"nosuid", "nodev"} <= found["/rw"][1] and "ro" in found["/ro"][1] and "ro" in found["/rro/below"][1]
    assert "rw" in found["/ro/below"][1] and "/one/below" not in found
    assert sorted(path.name for path in volume.iterdir()) == ["a", "below", "file"]
    assert [path.name for path in (volume / "below").iterdir()] == ["c"]
    assert (volume / "file").read_text() == "content"


@pytest.mark.parametrize(
    ("option", "seen", "spreads"), [("rprivate", False, False), ("rslave", True, False), ("rshared", True, True)]
)
@supervised
def test_propagation(image: Image, tmp_path: Path, option: str, seen: bool, spreads: bool) -> None:
    volume = tmp_path / "volume"
    (volume / "host").mkdir(parents=True)
    (volume / "inside").mkdir()
    syscalls.mount(str(volume), str(volume), "", syscalls.MS_BIND, "")
    syscalls.set_propagation(str(volume), syscalls.MS_SHARED)
    script = "mount -t tmpfs inside /v/inside; echo ready; while ! test -e /tmp/go; do sleep 0.02; done; mount"
    everything = {name: ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"] for name in ("bounding", "effective", "permitted")}
    target = begin(image, config(sh(script, capabilities=everything), mounts=[bind(volume, "/v", option)]))
    assert target.line() == "ready"
    syscalls.mount("host", str(volume / "host"), "tmpfs", 0, "")
    assert os.path.ismount(volume / "inside") == spreads
    Path(f"/proc/{target.process.pid}/root/tmp/go").touch()
    assert ("/v/host" in mounts_of(target.finish().output)) == seen


@supervised
def test_many_layers_with_long_paths(image: Image, tmp_path: Path) -> None:
    layers = []
    for number in range(120):
        layer = tmp_path / ("x" * 200) / ("y" * 200) / str(number)
        layer.mkdir(parents=True)
        (layer / f"file-{number}").touch()
        layers.append(str(layer))
    image.rootfs()
    upper, work = image.upper, tmp_path / "work-0"
    options = [f"lowerdir={':'.join([*layers, str(image.lower)])}", f"upperdir={upper}", f"workdir={work}"]
    result = run(
        image,
        config(sh("ls -d /file-* | busybox wc -l")),
        rootfs=[{"type": "overlay", "source": "overlay", "options": options}],
    )
    assert result.output.strip() == "120"


@supervised
def test_bind_as_root(image: Image) -> None:
    rootfs = [{"type": "bind", "source": str(image.lower), "options": ["rbind", "ro"]}]
    for name in ("proc", "dev", "sys"):
        (image.lower / name).mkdir()
    result = run(image, config(sh("echo x > /etc/x; mount | busybox head -n 1")), rootfs=rootfs)
    assert " on / type " in result.output and "(ro," in result.output
    assert not (image.lower / "etc/x").exists()


@supervised
def test_the_host_sees_nothing(image: Image) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    target = begin(image, config(command("sleep", "1000")))
    assert Path("/proc/self/mountinfo").read_text() == before
    assert str(image.lower) not in Path(f"/proc/{target.process.pid}/mountinfo").read_text()
    target.kill()


def is_empty_and_stays_so(namespace: int) -> bool:
    """Whether there is nothing in a mount namespace, to be seen by a child in it, and nothing can be put there."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            syscalls.setns(namespace, syscalls.CLONE_NEWNS)
            code = int(os.listdir("/") != [] or not is_read_only("/"))
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def is_read_only(directory: str) -> bool:
    try:
        os.mkdir(f"{directory}/x")
    except OSError as error:
        return error.errno == errno.EROFS
    return False


@supervised
def test_an_empty_room(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    room = emptyroom.make()
    assert is_empty_and_stays_so(room)
    assert Path("/proc/self/mountinfo").read_text() == before
    (tmp_path / "proc").mkdir()
    syscalls.mount("proc", str(tmp_path / "proc"), "proc", 0, "")
    os.chroot(tmp_path)
    os.chdir("/")
    assert is_empty_and_stays_so(emptyroom.make())
    assert os.listdir("/") == ["proc"]


@supervised
def test_there_is_nothing_below_the_root(image: Image) -> None:
    """Whoever takes it off, as a container with all capabilities can."""
    target = begin(image, config(command("sleep", "1000")))
    namespace = os.open(f"/proc/{target.process.pid}/ns/mnt", os.O_RDONLY)
    assert not is_empty_and_stays_so(namespace)
    child = os.fork()
    if child == 0:
        syscalls.setns(namespace, syscalls.CLONE_NEWNS)
        syscalls.umount("/", syscalls.MNT_DETACH)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert is_empty_and_stays_so(namespace)
    target.kill()


@supervised
def test_the_root_is_that_of_the_namespace(image: Image) -> None:
    """The kernel gives no user namespace to who is in another root directory, see user_namespaces(7)."""
    assert run(image, config(command("busybox", "unshare", "-U", "busybox", "true"))).code == 0


@pytest.mark.parametrize(
    ("mount", "why"),
    [
        ({"destination": "/x", "type": "bind", "source": "/nosuch", "options": ["rbind"]}, "no such file"),
        ({"destination": "/x", "type": "bind", "source": "relative", "options": ["rbind"]}, "not an absolute path"),
        (
            {"destination": "/x", "type": "bind", "source": "/etc", "options": ["rbind", "size=1"]},
            "unknown option 'size'",
        ),
        ({"destination": "/x", "type": "tmpfs", "source": "x", "options": ["nosuch=1"]}, "cannot mount tmpfs at /x"),
        ({"destination": "/x", "type": "nosuchfs", "source": "x"}, "cannot mount nosuchfs at /x"),
        ({"destination": "/", "type": "tmpfs", "source": "x"}, "cannot be mounted over"),
        ({"destination": "/proc/sys", "type": "tmpfs", "source": "x"}, "inside /proc"),
        ({"destination": "/etc/passwd", "type": "tmpfs", "source": "x"}, "cannot mount tmpfs at /etc/passwd"),
        ({"destination": "x", "type": "tmpfs", "source": "x"}, "not absolute"),
    ],
)
@supervised
def test_refused_mounts(image: Image, mount: dict[str, Any], why: str) -> None:
    with pytest.raises(StartError, match=why) as caught:
        run(image, config(command("true"), mounts=[mount]))
    assert caught.value.exit_code == 128


@pytest.mark.parametrize("fake", [{"type": "tmpfs"}, {"type": "bind", "source": "/etc", "options": ["rbind"]}])
@supervised
def test_nothing_but_proc_at_proc(image: Image, fake: dict[str, Any]) -> None:
    with pytest.raises(StartError, match="cannot mount at /proc"):
        run(image, config(command("true"), base=[{"destination": "/proc", **fake}, DEV, SYS]))


@supervised
def test_host_proc_may_be_bound(image: Image) -> None:
    base = [{**PROC, "type": "bind", "source": "/proc", "options": ["rbind"]}, DEV, SYS]
    result = run(image, config(command("cat", "/proc/self/comm"), base=base, namespaces=[{"type": "mount"}]))
    assert result.output == "cat\n"
