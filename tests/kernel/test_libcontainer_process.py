"""Real processes from an OCI config: commands, users, streams, terminals, init, exec."""

from __future__ import annotations

import os
import re
import signal
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from moorage.server.libcontainer import cgroups, process, rootfs, syscalls
from moorage.server.libcontainer.process import StartError
from tests.supervised import Image, Running, begin, begin_exec, command, config, image, run, supervised

pytestmark = pytest.mark.kernel

__all__ = ["image"]


def sh(script: str, **fields: Any) -> dict[str, Any]:
    return command("sh", "-c", script, **fields)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 42", 42), ("kill -9 $$; sleep 1", -9)])
@supervised
def test_exit_code(image: Image, script: str, code: int) -> None:
    # Process 1 of a pid namespace is safe from its own signals, so a child of it is killed there.
    if code < 0:
        assert run(image, config(sh(f"sh -c '{script}'; exit 9"))).code == 9
        assert run(image, config(sh(script), namespaces=[{"type": "mount"}])).code == code
    else:
        assert run(image, config(sh(script))).code == code


@pytest.mark.parametrize(
    ("argument", "code"),
    [
        ("nosuch", 127),
        ("/bin/nosuch", 127),
        ("/bin/sh/nosuch", 127),
        ("/etc/passwd", 126),
        ("/etc", 126),
        ("unreadable-format", 126),
        ("missing-interpreter", 127),
        ("directory", 126),
    ],
)
@supervised
def test_command_that_cannot_be_executed(image: Image, argument: str, code: int) -> None:
    image.script("unreadable-format", "\0\0\0\0")
    image.script("missing-interpreter", "#!/nosuch\n")
    (image.lower / "bin/directory").mkdir()
    target = begin(image, config(command("sleep", "1000")))
    with pytest.raises(StartError) as first:
        run(image, config(command(argument)))
    with pytest.raises(StartError) as second:
        begin_exec(target, command(argument))
    assert [error.value.exit_code for error in (first, second)] == [code, code]
    assert argument in first.value.message
    assert first.value.errno and first.value.stage in ("user", "exec")
    target.kill()


@supervised
def test_command_of_another_user_only(image: Image) -> None:
    image.script("private", "#!/bin/sh\nexit 0\n", 0o700)
    with pytest.raises(StartError) as caught:
        run(image, config(command("private", user={"username": "bob"}, capabilities={})))
    assert (caught.value.exit_code, caught.value.errno) == (126, 13)
    assert run(image, config(command("private"))).code == 0


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({"username": "bob"}, "1000:1001:50,1001:/home/bob"),
        ({"username": "1000"}, "1000:1001:50,1001:/home/bob"),
        ({"username": "bob:audio"}, "1000:29:29:/home/bob"),
        ({"username": "4321"}, "4321:0:0:/"),
        ({"username": "4321:77"}, "4321:77:77:/"),
        ({"uid": 1000, "gid": 5}, "1000:5:5:/home/bob"),
        ({"uid": 0, "gid": 0, "additionalGids": [9, 7]}, "0:0:0,7,9:/root"),
        ({"username": "bob", "additionalGids": [7]}, "1000:1001:7,50,1001:/home/bob"),
    ],
)
@supervised
def test_user(image: Image, user: dict[str, Any], expected: str) -> None:
    script = (
        'set -- $(grep -E "^(Uid|Gid|Groups):" /proc/self/status | cut -f 2-); echo "$@ $HOME"; cat /proc/self/status'
    )
    result = run(image, config(sh(script.replace("grep", "busybox grep").replace("cut", "busybox cut"), user=user)))
    status = dict(line.split(":", 1) for line in result.output.splitlines()[1:])
    groups = ",".join(sorted(status["Groups"].split(), key=int))
    home = result.output.splitlines()[0].rpartition(" ")[2]
    assert f"{status['Uid'].split()[3]}:{status['Gid'].split()[3]}:{groups}:{home}" == expected


@pytest.mark.parametrize("username", ["eve", "bob:nogroup", "4294967295", "-1", "0x10"])
@supervised
def test_unknown_user(image: Image, username: str) -> None:
    with pytest.raises(StartError, match="unable to find") as caught:
        run(image, config(command("true", user={"username": username})))
    assert caught.value.exit_code == 126


@supervised
def test_environment(image: Image) -> None:
    result = run(image, config(command("env", env=["PATH=/bin", "A=1", "A=2", "HOME=/x", "Ü=ö"])))
    assert sorted(result.output.splitlines()) == ["A=2", "HOME=/x", "PATH=/bin", "Ü=ö"]


@supervised
def test_cwd_is_made(image: Image) -> None:
    assert run(image, config(command("pwd", cwd="/a/b/../c"))).output == "/a/c\n"
    assert (image.upper / "a/c").stat().st_mode & 0o7777 == 0o755
    target = begin(image, config(command("sleep", "1000")))
    with pytest.raises(StartError, match="/nosuch: no such file") as caught:
        begin_exec(target, command("pwd", cwd="/nosuch"))
    assert caught.value.exit_code == 128
    target.kill()


@supervised
def test_descriptors_and_signals(image: Image) -> None:
    inheritable = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(inheritable, True)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    target = begin(
        image,
        config(
            sh("exec 3< /proc/self; busybox ls /proc/$$/fd; exec cat /proc/self/status; sleep 9"),
        ),
    )
    output = target.finish().output
    assert output.split("Name:")[0].split() == ["0", "1", "2", "3"]
    masks = dict(line.split(":\t") for line in output.splitlines() if line.startswith("Sig") and "Q" not in line)
    assert {name: masks[name] for name in ("SigBlk", "SigIgn")} == dict.fromkeys(("SigBlk", "SigIgn"), "0" * 16)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGUSR2}


@supervised
def test_streams_go_to_the_user(image: Image) -> None:
    result = run(image, config(sh("echo hello > /proc/self/fd/1", user={"username": "bob"}, capabilities={})))
    assert result == (0, "hello\n")


@supervised
def test_without_streams_there_is_null(image: Image) -> None:
    started = process.start(
        config(sh("test -c /proc/self/fd/1 && echo x && ! read line")),
        rootfs=image.rootfs(),
        stdio=None,
        cgroup=None,
        seccomp=None,
    )
    assert os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1]) == 0


def read_terminal(console: int) -> str:
    output = b""
    while True:
        try:
            output += os.read(console, 4096)
        except OSError:
            return output.decode()


@supervised
def test_terminal(image: Image) -> None:
    script = "tty; stty size; echo console > /dev/console; ls -l /dev/console; test -t 0 && test -t 2"
    asked = sh(
        script, terminal=True, consoleSize={"height": 33, "width": 101}, user={"username": "bob"}, capabilities={}
    )
    started = process.start(config(asked), rootfs=image.rootfs(), stdio=None, cgroup=None, seccomp=None)
    assert started.console is not None
    output = read_terminal(started.console)
    assert output.startswith("/dev/pts/0\r\n33 101\r\nconsole\r\ncrw--w----    1 bob      5         136,   0"), output
    assert os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1]) == 0


@supervised
def test_terminal_of_exec_controls(image: Image) -> None:
    target = begin(image, config(command("sleep", "1000")))
    asked = sh("tty; trap 'echo interrupted; exit 3' INT; while :; do sleep 0.05; done", terminal=True)
    started = process.execute(target.process.pid, {}, asked, stdio=None, cgroup=None, seccomp=None)
    assert started.console is not None
    assert os.read(started.console, 100) == b"/dev/pts/0\r\n"
    time.sleep(0.1)
    os.write(started.console, b"\x03")
    assert "interrupted" in read_terminal(started.console)
    assert os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1]) == 3
    target.kill()


@supervised
def test_exec_shares_everything(image: Image) -> None:
    kinds = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network", "cgroup")]
    target = begin(
        image, {**config(command("sleep", "1000"), namespaces=kinds), "hostname": "boat", "domainname": "sea"}
    )
    own = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "mnt", "ipc", "uts", "net")}
    names = " ".join(own)
    result = begin_exec(
        target, sh(f"for n in {names}; do for p in self 1; do busybox readlink /proc/$p/ns/$n; done; done; hostname")
    ).finish()
    lines = result.output.split()
    assert lines[0:10:2] == lines[1:10:2]
    assert not set(lines) & set(own.values())
    assert lines[10] == "boat"
    assert os.readlink("/proc/self/ns/pid_for_children") == own["pid"]
    target.kill()


@supervised
def test_exec_is_a_child_and_dies_with_the_container(image: Image) -> None:
    target = begin(image, config(command("sleep", "1000")))
    second = begin_exec(target, sh("echo ready; sleep 1000"))
    assert second.line() == "ready"
    os.kill(target.process.pid, signal.SIGKILL)
    assert second.finish().code == -9
    assert target.finish().code == -9


@supervised
def test_exec_in_a_container_that_has_ended(image: Image) -> None:
    target = begin(image, config(command("true")))
    os.waitid(os.P_PIDFD, target.process.pidfd, os.WEXITED | os.WNOWAIT)
    with pytest.raises(StartError):
        begin_exec(target, command("true"))
    assert target.finish().code == 0
    assert os.readlink("/proc/self/ns/pid_for_children") == os.readlink("/proc/self/ns/pid")


@supervised
def test_init_reaps_and_passes_signals_on(image: Image) -> None:
    script = "(sleep 0.05 &); trap 'echo got; exit 7' USR1; echo $$; while :; do sleep 0.02; done"
    target = begin(image, config(sh(script)), init=True)
    assert target.line() == "2"
    time.sleep(0.3)
    # A zombie now and then is one that the command has yet to wait for.
    looks = [begin_exec(target, command("ps", "-o", "pid,stat,comm")).finish().output for _ in range(5)]
    assert all("1 S    init" in ps for ps in looks), looks
    zombies = [{line.split()[0] for line in ps.splitlines() if re.search(r"\bZ\b", line)} for ps in looks]
    assert not set.intersection(*zombies), looks
    os.kill(target.process.pid, signal.SIGUSR1)
    assert target.finish() == (7, "got\n")


@supervised
def test_init_ends_as_the_command_ends(image: Image) -> None:
    assert run(image, config(command("false")), init=True).code == 1
    assert run(image, config(sh("kill -TERM $$; sleep 9")), init=True).code == 128 + signal.SIGTERM
    with pytest.raises(StartError) as caught:
        run(image, config(command("nosuch")), init=True)
    assert caught.value.exit_code == 127


@pytest.mark.parametrize("username", ["root", "bob"])
@supervised
def test_init_keeps_out_of_reach(image: Image, username: str) -> None:
    script = "cat /proc/1/exe || busybox readlink /proc/1/cwd || cat /proc/1/environ || cat /proc/1/maps || echo none; sleep 0.2"
    target = begin(image, config(sh(script, user={"username": username})), init=True)
    assert target.line().endswith("Permission denied")
    status = Path(f"/proc/{target.process.pid}/status").read_text()
    assert f"Uid:\t{1000 if username == 'bob' else 0}\t" in status and "CapEff:\t00000000080000eb" in status
    assert not os.listdir(f"/proc/{target.process.pid}/fd")
    assert target.finish().output.endswith("none\n")


class Dying:
    """A cgroup whose memory limit is too low for our own process."""

    def enter(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@supervised
def test_death_while_being_set_up(image: Image) -> None:
    with pytest.raises(StartError, match="killed by signal 9") as caught:
        run(image, config(command("true"), namespaces=[{"type": "mount"}]), cgroup=Dying(), stage=str)
    assert caught.value.stage == "cgroup"


@supervised
def test_failure_leaves_nothing(image: Image) -> None:
    before = os.listdir("/proc/self/fd")
    stages: list[str] = []
    with pytest.raises(StartError):
        process.start(
            config(command("nosuch", terminal=True)),
            rootfs=image.rootfs(),
            stdio=None,
            cgroup=None,
            seccomp=None,
            stage=lambda name, _at_ns=0: stages.append(name),
        )
    assert stages == ["clone", "cgroup", "rootfs", "seal", "user"]
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@supervised
def test_joining_namespaces_by_path(image: Image) -> None:
    first: Running = begin(
        image, config(command("sleep", "1000"), namespaces=[{"type": kind} for kind in ("pid", "uts", "cgroup")])
    )
    path = f"/proc/{first.process.pid}/ns"
    kinds = ("pid", "uts", "cgroup")
    joined = [{"type": kind, "path": f"{path}/{kind}"} for kind in kinds]
    script = "echo $$; for kind in pid uts cgroup; do busybox readlink /proc/self/ns/$kind; done"
    number, *links = run(image, config(sh(script), namespaces=joined)).output.split()
    assert int(number) > 1 and links == [os.readlink(f"{path}/{kind}") for kind in kinds]
    first.kill()


@supervised
def test_limits_are_clamped(image: Image) -> None:
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 1 << 40},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    script = "ulimit -Sn; ulimit -Sc; umask; cat /proc/self/oom_score_adj"
    asked = sh(script, rlimits=limits, oomScoreAdj=-900, user={"uid": 0, "gid": 0, "umask": 0o27})
    lines = run(image, config(asked)).output.split()
    assert lines[:3] == ["100", "0", "0027"]
    assert int(lines[3]) in (-900, int(Path("/proc/self/oom_score_adj").read_text()))


@pytest.mark.parametrize("privileges", [True, False])
@supervised
def test_filter_and_capabilities(image: Image, privileges: bool) -> None:
    # BPF: return ALLOW.
    program = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
    asked = command("cat", "/proc/self/status", noNewPrivileges=privileges, user={"username": "bob"}, capabilities={})
    status = run(image, config(asked), seccomp=program).output
    assert "Seccomp:\t2" in status
    assert f"NoNewPrivs:\t{int(privileges)}" in status
    for name in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert f"Cap{name}:\t0000000000000000" in status


@supervised
def test_sysctls(image: Image) -> None:
    kinds = [{"type": "pid"}]
    asked = command("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/kernel/shmmni")
    sysctls = {"net.ipv4.ip_unprivileged_port_start": "77", "kernel.shmmni": "99"}
    assert run(image, config(asked, namespaces=kinds, sysctl=sysctls)).output.split() == ["77", "99"]
    host = {"type": "network", "path": f"/proc/{os.getppid()}/ns/net"}
    with pytest.raises(StartError, match="would change the host"):
        run(image, config(asked, namespaces=[*kinds, host], sysctl={"net.ipv4.ip_forward": "1"}))
    for key, value in {
        "kernel.core_pattern": "x",
        "kernel.shm_rmid_forced": "1+kernel.core_pattern=x",
        "net.ipv4.ip_forward": "1\n",
    }.items():
        with pytest.raises(StartError, match="sysctl"):
            run(image, config(asked, sysctl={key: value}))


@supervised
def test_the_caller_is_hidden(image: Image) -> None:
    assert run(image, config(command("true"))).code == 0
    assert syscalls._libc.prctl(3, 0, 0, 0, 0) == 0


@supervised
def test_cgroup(image: Image) -> None:
    cgroup = cgroups.detect().cgroup(f"/moorage-libcontainer-{os.getpid()}")
    cgroup.create({"pids": {"limit": 40}})
    kinds = [{"type": kind} for kind in ("pid", "cgroup")]
    mount = {
        "destination": "/sys/fs/cgroup",
        "type": "cgroup",
        "source": "cgroup",
        "options": ["ro", "nosuid", "nodev", "noexec"],
    }
    target = begin(image, config(sh("echo ready; sleep 1000"), mounts=[mount], namespaces=kinds), cgroup=cgroup)
    assert target.line() == "ready"
    second = begin_exec(
        target, sh("cat /proc/1/cgroup; cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max"), cgroup=cgroup
    )
    lines = second.finish().output.splitlines()
    assert lines[-1] == "40"
    version1 = any(not line.startswith("0:") for line in lines[:-1])
    names = [
        line.split(":")[2]
        for line in lines
        if line.partition(":")[2][:6] == "pids:/" or (not version1 and line.startswith("0:"))
    ]
    assert names == ["/"], lines
    assert target.process.pid in cgroup.pids()
    target.kill()
    cgroup.remove()


@supervised
def test_terminal_of_a_command_under_init(image: Image) -> None:
    asked = config(sh("tty; ps -o pid,tty; exit 5", terminal=True))
    started = process.start(asked, rootfs=image.rootfs(), stdio=None, cgroup=None, seccomp=None, init=True)
    assert started.console is not None
    output = read_terminal(started.console)
    assert output.startswith("/dev/pts/0") and "1 ?" in output and "2 136,0" in output, output
    assert os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1]) == 5


@supervised
def test_only_mounting_a_root(image: Image) -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    root = rootfs.mount_root(rootfs.plan_layers(image.rootfs()))
    assert sorted(os.listdir(f"/proc/self/fd/{root}")) == ["bin", "etc", "tmp"]
    os.close(root)
