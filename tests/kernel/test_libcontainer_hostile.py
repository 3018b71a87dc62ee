"""Images and configs that attack: nothing of the host is reached, nothing of the image runs in our process."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from moorage.server.libcontainer import process, syscalls
from moorage.server.libcontainer.process import StartError
from tests.supervised import (
    CAPABILITIES,
    EXECS,
    PROC,
    SYS,
    Image,
    begin,
    begin_exec,
    command,
    config,
    image,
    run,
    runner_exec,
    supervised,
)

pytestmark = pytest.mark.kernel

__all__ = ["image"]


def sh(script: str, **fields: Any) -> dict[str, Any]:
    return command("sh", "-c", script, **fields)


def interpreter_hash() -> str:
    return hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "start", ["/proc/self/exe", "/proc/thread-self/exe", "/bin/link", "/bin/script", "/bin/nested", "link"]
)
@supervised
def test_our_own_binary_is_no_command(image: Image, start: str) -> None:
    """CVE-2019-5736."""
    (image.lower / "bin/link").symlink_to("/proc/self/exe")
    image.script("script", "#!/proc/self/exe\n")
    image.script("nested", "#! /bin/script x\n")
    before = interpreter_hash()
    target = begin(image, config(command("sleep", "1000")))
    with pytest.raises(StartError, match="out of the container") as caught:
        run(image, config(command(start)))
    assert caught.value.exit_code == 126
    with pytest.raises(StartError) as caught:
        begin_exec(target, command(start))
    assert caught.value.exit_code == 126
    with pytest.raises(StartError) as caught:
        # Which has no /proc/self inside.
        runner_exec(target, command(start))
    assert caught.value.exit_code == 127
    target.kill()
    assert interpreter_hash() == before


@pytest.mark.parametrize("protected", [True, False])
def test_interpreter_behind_a_read_only_mount(tmp_path: Path, protected: bool) -> None:
    """What is left when all else fails: a way to the binary that was kept until it runs no more does not lead to writing."""
    code = """
import sys
from moorage.server.libcontainer import protect
if sys.argv[1] == "True":
    protect.execute_read_only(sys.orig_argv[1:])
print(sys.argv, flush=True)
sys.stdin.read()
"""
    python = shutil.copy(os.path.realpath(sys.executable), tmp_path / "python")
    environment = {"PYTHONHOME": sys.base_prefix, "PYTHONPATH": ":".join(path for path in sys.path if path)}
    arguments = [python, "-c", code, str(protected)]
    with subprocess.Popen(
        arguments, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin and child.stdout
        assert child.stdout.readline() == f"['-c', '{protected}']\n"
        kept = os.open(f"/proc/{child.pid}/exe", os.O_PATH)
        child.stdin.close()
    try:
        os.close(os.open(f"/proc/self/fd/{kept}", os.O_RDWR))
        written = True
    except OSError as error:
        assert error.errno == errno.EROFS
        written = False
    finally:
        os.close(kept)
    assert written != protected


@pytest.mark.parametrize("by", EXECS)
@supervised
def test_our_processes_cannot_be_opened(image: Image, by: str) -> None:
    """A loop inside looks for processes that are not of the image while we enter again and again."""
    hunt = """
        while ! test -e /tmp/stop; do
            for p in /proc/[0-9]*; do
                link=$(busybox readlink $p/exe) || continue
                case $link in /bin/busybox) ;; *) echo "caught $link"; { : > $p/exe; } && echo written;; esac
            done
        done 2> /dev/null
        echo done
    """
    before = interpreter_hash()
    target = begin(image, config(sh("echo ready;" + hunt)))
    assert target.line() == "ready"
    for _ in range(40):
        assert EXECS[by](target, command("true")).finish().code == 0
    # The container may end before it, and take it along.
    assert begin_exec(target, sh("echo > /tmp/stop")).finish().code in (0, -signal.SIGKILL)
    assert target.finish().output == "done\n"
    assert interpreter_hash() == before


@supervised
def test_nothing_is_imported_from_the_image(image: Image, tmp_path: Path) -> None:
    """CVE-2019-14271: the image holds the host's library paths, and every module there leaves a canary."""
    canary = "open('/canary', 'a').write(__name__)\n"
    for directory in {
        sysconfig.get_paths()["stdlib"],
        sysconfig.get_paths()["platstdlib"],
        os.path.dirname(process.__file__),
    }:
        poisoned = image.lower / directory.lstrip("/")
        for name in ("encodings", "json", "ctypes"):
            (poisoned / name).mkdir(parents=True)
            (poisoned / name / "__init__.py").write_text(canary)
        for name in ("os", "traceback", "linecache", "locale", "pwd", "stat", "warnings"):
            (poisoned / f"{name}.py").write_text(canary)
    for name in ("libnss_files.so.2", "libnss_compat.so.2", "libgcc_s.so.1"):
        library = image.lower / "lib/x86_64-linux-gnu" / name
        library.parent.mkdir(parents=True, exist_ok=True)
        library.write_bytes(b"\x7fELF not really")
    (image.lower / "etc/nsswitch.conf").write_text("passwd: files\n")
    (image.lower / "etc/passwd").write_text("zoë:x:7:7::/home/zoë:/bin/sh\n")
    seen = os.open(tmp_path / "events", os.O_CREAT | os.O_RDWR | os.O_APPEND)
    supervisor = os.getpid()

    def audit(event: str, args: tuple[object, ...]) -> None:
        if event in ("import", "open", "exec", "compile", "ctypes.dlopen") and os.getpid() != supervisor:
            os.write(seen, f"{event} {args[0]}\n".encode())

    sys.addaudithook(audit)
    asked = sh("test ! -e /canary", user={"username": "zoë"}, env=["PATH=/bin", "LANG=de_DE.UTF-8", "X=ü"])
    target = begin(
        image, config(sh("test ! -e /canary && sleep 1000"), namespaces=[{"type": "mount"}, {"type": "pid"}])
    )
    assert begin_exec(target, asked).finish().code == 0
    for failing in (
        command("nosuch-ü", terminal=True),
        command("true", user={"username": "ö"}),
        command("/etc/passwd"),
    ):
        with pytest.raises(StartError):
            begin_exec(target, failing)
    target.kill()
    events = Path(tmp_path / "events").read_text().splitlines()
    assert not [event for event in events if not event.startswith("open ")], events
    assert not (image.upper / "canary").exists()


@pytest.mark.parametrize("how", ["start", *EXECS])
@supervised
def test_cwd_is_no_descriptor_of_ours(image: Image, how: str) -> None:
    """CVE-2024-21626."""
    host = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(host, True)
    (image.lower / "sneaky").symlink_to(f"/proc/self/fd/{host}")
    target = begin(image, config(command("sleep", "1000")))
    for cwd in [f"/proc/self/fd/{number}" for number in range(3, 31)] + [
        "/sneaky",
        "/proc/self/cwd",
        "/proc/self/root",
        "/proc/1/cwd",
    ]:
        with pytest.raises(StartError) as caught:
            if how == "start":
                begin(image, config(command("ls", cwd=cwd)))
            else:
                EXECS[how](target, command("ls", cwd=cwd))
        assert caught.value.exit_code == 128
    target.kill()


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
@pytest.mark.parametrize("link", ["/etc", "../../../../../../etc", "/nosuch"])
@supervised
def test_links_for_system_directories_are_refused(image: Image, name: str, link: str) -> None:
    """CVE-2019-19921, CVE-2025-52881."""
    (image.lower / name).symlink_to(link)
    with pytest.raises(StartError, match=f"/{name}"):
        run(image, config(command("true")))


@supervised
def test_files_under_proc_in_the_image_are_covered(image: Image) -> None:
    (image.lower / "proc/self").mkdir(parents=True)
    (image.lower / "proc/self/comm").write_text("fake")
    assert run(image, config(command("cat", "/proc/self/comm"))).output == "cat\n"


@supervised
def test_terminal_needs_a_devpts(image: Image) -> None:
    """CVE-2025-52565: what the image puts at /dev/pts is no terminal."""
    (image.lower / "dev/pts").mkdir(parents=True)
    (image.lower / "dev/pts/ptmx").write_text("")
    with pytest.raises(StartError, match="not a devpts"):
        process.start(
            config(command("tty", terminal=True), base=[PROC, SYS]),
            rootfs=image.rootfs(),
            stdio=None,
            cgroup=None,
            seccomp=None,
        )


@pytest.mark.parametrize("node", ["null", "zero", "tty"])
@supervised
def test_devices_of_the_image_are_checked(image: Image, node: str) -> None:
    """CVE-2025-31133."""
    (image.lower / "dev").mkdir()
    (image.lower / "dev" / node).write_text("not a device")
    with pytest.raises(StartError, match="is not the device it should be"):
        run(image, config(command("true"), base=[PROC, SYS]))


@pytest.mark.parametrize(
    "link", ["/outside", "../../../../../../../../outside", "/proc/self/root/outside", "//outside/."]
)
@supervised
def test_mount_targets_stay_inside(image: Image, tmp_path: Path, link: str) -> None:
    """CVE-2021-30465: the link leads to a directory of that name on the host, too."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (image.lower / "outside").mkdir()
    (image.lower / "data").symlink_to(link.replace("outside", str(outside).lstrip("/")))
    (image.lower / str(outside).lstrip("/")).mkdir(parents=True)
    mounts = [{"destination": "/data/x", "type": "tmpfs", "source": "tmpfs"}]
    with contextlib.suppress(StartError):
        run(image, config(command("true"), mounts=mounts))
    assert not list(outside.iterdir())


def swapping(one: Path, other: Path) -> int:
    """The pid of a process that exchanges two names over and over, until it is killed."""
    exchange = ctypes.CDLL(None, use_errno=True).renameat2
    names = -100, os.fsencode(one), -100, os.fsencode(other), 2  # AT_FDCWD twice, RENAME_EXCHANGE
    assert exchange(*names) == 0, os.strerror(ctypes.get_errno())
    pid = os.fork()
    if pid == 0:
        syscalls.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    while pid == 0:
        exchange(*names)
    return pid


@supervised
def test_swapped_mount_targets(image: Image, tmp_path: Path) -> None:
    """CVE-2021-30465, CVE-2024-45310: somebody who shares a volume swaps a directory for a link while we mount there."""
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    (volume / "a").mkdir(parents=True)
    outside.mkdir()
    (volume / "b").symlink_to(outside)
    shared = {"destination": "/v", "type": "bind", "source": str(volume), "options": ["rbind"]}
    inner = {"destination": "/v/a/x", "type": "tmpfs", "source": "moorage-inner"}
    swapper = swapping(volume / "a", volume / "b")
    for _ in range(50):
        with contextlib.suppress(StartError):
            output = run(image, config(command("mount"), mounts=[shared, inner])).output
            assert "moorage-inner on /v/" in output or f"moorage-inner on {outside}" in output, output
    os.kill(swapper, signal.SIGKILL)
    os.waitpid(swapper, 0)
    assert not list(outside.iterdir())
    assert "moorage-inner" not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("kind", ["fifo", "link", "directory", "huge"])
@supervised
def test_passwd_that_is_no_plain_file(image: Image, kind: str) -> None:
    """CVE-2024-9676."""
    path = image.lower / "etc/passwd"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/proc/self/environ")
    elif kind == "directory":
        path.mkdir()
    else:
        os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 10 << 30)
    with pytest.raises(StartError, match="cannot read /etc/passwd"):
        run(image, config(command("true", user={"username": "bob"})))
    assert run(image, config(sh('test "$HOME" = /', user={"uid": 5, "gid": 5}))).code == 0


@supervised
def test_the_session_keyring_is_left(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    number = {"x86_64": 250}.get(os.uname().machine, 219)
    libc = ctypes.CDLL(None)

    def tell(*_: object) -> None:
        # KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING
        os.write(1, b"%d" % libc.syscall(number, 0, -3, 0))
        os._exit(0)

    syscalls.new_session_keyring()
    ours = libc.syscall(number, 0, -3, 0)
    monkeypatch.setattr("moorage.server.libcontainer.command.execute", tell)
    theirs = int(run(image, config(command("true"))).output)
    assert ours > 0 and theirs > 0 and ours != theirs


@supervised
def test_hostile_config_values(image: Image) -> None:
    for process_ in (
        command(),
        command(""),
        command("tr\0ue"),
        command("true", cwd="relative"),
        command("true", apparmorProfile="x"),
        command("true", user={"uid": -1}),
        command("true", user={"uid": 1 << 32}),
        command("true", rlimits=[{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
        command("true", rlimits=[{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]),
        command("true", capabilities={"bounding": [*CAPABILITIES, "CAP_NOSUCH"]}),
        command("true", oomScoreAdj=1001),
    ):
        with pytest.raises(StartError):
            run(image, config(process_))
    with pytest.raises(StartError, match="not supported"):
        run(image, config(command("true"), namespaces=[{"type": "user"}]))
    with pytest.raises(StartError, match="not supported"):
        run(image, {**config(command("true")), "hooks": {"prestart": [{"path": "/bin/true"}]}})
