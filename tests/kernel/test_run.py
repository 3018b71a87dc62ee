"""What a person at a shell sees of one container: `moorage run` and its options."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.daemon import PROGRAMS, Daemon

pytestmark = pytest.mark.kernel

IMAGE = "registry.example/test/busybox:1"


def sh(daemon: Daemon, script: str, *options: str) -> str:
    """What a script prints in a container of its own, made with `options`."""
    return daemon.out("run", "--rm", *options, IMAGE, "sh", "-c", script)


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_the_exit_code_is_the_containers(daemon: Daemon, code: int) -> None:
    assert daemon.cli("run", "--rm", IMAGE, "sh", "-c", f"exit {code}", check=False).returncode == code


def test_a_killed_process_exits_with_128_and_the_signal(daemon: Daemon) -> None:
    assert daemon.cli("run", "--rm", "--init", IMAGE, "sh", "-c", "kill -TERM $$", check=False).returncode == 143


def test_stdout_and_stderr_stay_apart(daemon: Daemon) -> None:
    done = daemon.cli("run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_stdin_reaches_the_container(daemon: Daemon) -> None:
    assert daemon.out("run", "--rm", "-i", IMAGE, "wc", "-c", stdin="x" * 300_000) == "300000"


def test_without_i_stdin_is_empty(daemon: Daemon) -> None:
    assert daemon.out("run", "--rm", IMAGE, "wc", "-c", stdin="not for it") == "0"


def test_rm_leaves_no_container(daemon: Daemon) -> None:
    sh(daemon, "true")
    assert daemon.out("ps", "-aq") == ""


def test_d_prints_the_id_and_returns(daemon: Daemon) -> None:
    identifier = daemon.out("run", "-d", "--name", "one", IMAGE, "sleep", "1000")
    assert len(identifier) == 64
    assert int(identifier, 16)
    assert daemon.out("ps", "-aq") in identifier
    found = daemon.inspect("one")
    assert (found["id"], found["state"]) == (identifier, "running")
    assert Path(f"/proc/{found['pid']}/cmdline").read_bytes() == b"sleep\x001000\x00"


@pytest.mark.parametrize(
    ("options", "script", "printed"),
    [
        (("-e", "COLOUR=blue", "-e", "EMPTY="), 'echo "$COLOUR,$EMPTY,$PATH"', "blue,,/bin"),
        (("-w", "/tmp"), "pwd", "/tmp"),
        (("-w", "/made/for/it"), "pwd", "/made/for/it"),
        (("-u", "nobody"), "id -u; id -g", "65534\n65534"),
        (("-u", "12:34"), "id -u; id -g", "12\n34"),
        (("--hostname", "harbour"), "hostname; cat /etc/hostname", "harbour\nharbour"),
        (("--read-only",), "touch /x 2>&1; echo $?", "touch: /x: Read-only file system\n1"),
        (("--tmpfs", "/scratch"), "touch /scratch/x; grep -c ' /scratch tmpfs' /proc/mounts", "1"),
        (("--cap-drop", "ALL"), "grep CapEff /proc/self/status", "CapEff:\t0000000000000000"),
        (("--cap-drop", "ALL", "--cap-add", "KILL"), "grep CapEff /proc/self/status", "CapEff:\t0000000000000020"),
        (("--pids-limit", "20"), "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null || true", "20"),
        (("--ulimit", "nofile=77:99"), "ulimit -Sn; ulimit -Hn", "77\n99"),
        (("--network", "none"), "ls /sys/class/net", "lo"),
        (("--network", "host"), "hostname", socket.gethostname()),
        (("--add-host", "lighthouse:192.0.2.7"), "grep lighthouse /etc/hosts", "192.0.2.7\tlighthouse"),
        (("--dns", "192.0.2.53"), "grep nameserver /etc/resolv.conf", "nameserver 192.0.2.53"),
    ],
)
def test_options(daemon: Daemon, options: tuple[str, ...], script: str, printed: str) -> None:
    assert sh(daemon, script, *options) == printed


def test_the_command_is_pid_1_and_alone(daemon: Daemon) -> None:
    assert sh(daemon, "echo $$; set -- /proc/[0-9]*; echo $#") == "1\n1"


def test_init_is_pid_1_and_reaps(daemon: Daemon) -> None:
    orphan = "(sleep 0.05 &) ; sleep 0.3; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l; echo $$"
    zombies, pid = sh(daemon, orphan, "--init").split()
    assert zombies == "0"
    assert int(pid) > 1


def test_entrypoint_takes_the_commands_place(daemon: Daemon) -> None:
    assert daemon.out("run", "--rm", "--entrypoint", "/bin/echo", IMAGE, "a", "b") == "a b"


def test_a_volume_is_the_hosts_directory(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "from-host").write_text("hello\n")
    assert sh(daemon, "cat /data/from-host; echo back > /data/from-inside", "-v", f"{tmp_path}:/data") == "hello"
    assert (tmp_path / "from-inside").read_text() == "back\n"


def test_a_read_only_volume_is_read_only(daemon: Daemon, tmp_path: Path) -> None:
    assert sh(daemon, "touch /data/x 2>/dev/null || echo refused", "-v", f"{tmp_path}:/data:ro") == "refused"
    assert list(tmp_path.iterdir()) == []


def test_no_mount_appears_on_the_host(daemon: Daemon) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    daemon.cli("run", "-d", IMAGE, "sleep", "1000")
    ours = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(daemon.directory) in line]
    assert [line for line in ours if line not in before] == []


def test_a_terminal_has_the_callers_size(daemon: Daemon) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(PROGRAMS / "moorage", ["moorage", "run", "-it", "--rm", IMAGE, "sh"], daemon.environment)
    try:
        subprocess.run(["stty", "rows", "33", "columns", "101"], stdin=terminal, check=True)
        os.write(terminal, b"sleep 0.2; stty size; exit 9\n")
        printed = b""
        while True:
            try:
                printed += os.read(terminal, 4096)
            except OSError:  # EIO: the other end has closed
                break
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert b"33 101\r\n" in printed
    assert os.waitstatus_to_exitcode(status) == 9


def serve(daemon: Daemon, *options: str) -> None:
    script = "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"
    daemon.cli("run", "-d", "--name", "web", *options, IMAGE, "sh", "-c", script)
    wait = "until wget -q -O /dev/null http://127.0.0.1/; do usleep 10000; done"
    daemon.cli("exec", "web", "sh", "-c", wait)


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(f"http://{address}/", timeout=10) as answer:
        body: bytes = answer.read()
    return body


def test_a_published_port_leads_to_the_container(daemon: Daemon) -> None:
    serve(daemon, "-p", "127.0.0.1::80")
    address = daemon.out("port", "web", "80")
    assert address.startswith("127.0.0.1:")
    assert fetch(address) == b"hello\n"
    host_port = daemon.inspect("web")["endpoint"]["ports"][0]["host_port"]
    assert address == f"127.0.0.1:{host_port}"


def test_a_port_published_everywhere_is_reached_on_every_address(daemon: Daemon) -> None:
    serve(daemon, "-p", "80")
    endpoint = daemon.inspect("web")["endpoint"]
    port = endpoint["ports"][0]["host_port"]
    assert fetch(f"127.0.0.1:{port}") == b"hello\n"
    assert fetch(f"{endpoint['gateway']}:{port}") == b"hello\n"
    assert sh(daemon, f"wget -q -O - http://{endpoint['gateway']}:{port}/") == "hello"


def test_containers_reach_each_other(daemon: Daemon) -> None:
    serve(daemon)
    address = daemon.inspect("web")["endpoint"]["address"].partition("/")[0]
    assert sh(daemon, f"wget -q -O - http://{address}/") == "hello"


def test_a_published_port_is_free_again_after_removal(daemon: Daemon) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        serve(daemon, "-p", f"127.0.0.1:{port}:80")
        assert fetch(f"127.0.0.1:{port}") == b"hello\n"
        daemon.cli("rm", "-f", "web")
    with pytest.raises(OSError, match="refused"):
        fetch(f"127.0.0.1:{port}")
