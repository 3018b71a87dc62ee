"""What a person at a shell does with a container that is there: exec, attach, logs, stats, top, events, wait, stop, kill, rm, rmi."""

from __future__ import annotations

import json
import time

import pytest

from tests.daemon import Daemon

pytestmark = pytest.mark.kernel

IMAGE = "registry.example/test/busybox:1"


@pytest.fixture
def box(daemon: Daemon) -> Daemon:
    """A daemon with a container `box` that sleeps."""
    daemon.cli("run", "-d", "--name", "box", "-e", "COLOUR=blue", "-w", "/tmp", IMAGE, "sleep", "1000")
    return daemon


def printed_in_time(daemon: Daemon, name: str, text: str) -> None:
    """Returns when the container has logged `text`."""
    with daemon.popen("logs", "-f", name) as process:
        assert process.stdout and process.stdin
        process.stdin.close()
        for line in process.stdout:
            if text in line.decode():
                break
        process.terminate()


def test_exec_shares_the_containers_world(box: Daemon) -> None:
    printed = box.out("exec", "box", "sh", "-c", "echo $COLOUR; pwd; hostname; tr '\\0' ' ' < /proc/1/cmdline")
    assert printed.splitlines() == ["blue", "/tmp", box.inspect("box")["id"][:12], "sleep 1000 "]


@pytest.mark.parametrize("code", [0, 3, 255])
def test_exec_exits_as_the_command_does(box: Daemon, code: int) -> None:
    assert box.cli("exec", "box", "sh", "-c", f"exit {code}", check=False).returncode == code


def test_exec_takes_stdin_and_its_end(box: Daemon) -> None:
    assert box.out("exec", "-i", "box", "wc", "-c", stdin="y" * 200_000) == "200000"


def test_exec_options(box: Daemon) -> None:
    options = ("-u", "nobody", "-e", "COLOUR=red", "-w", "/home")
    assert box.out("exec", *options, "box", "sh", "-c", "id -un; echo $COLOUR; pwd") == "nobody\nred\n/home"


def test_a_process_from_exec_counts_in_the_containers_cgroup(box: Daemon) -> None:
    inside = box.out("exec", "box", "cat", "/proc/self/cgroup", "/proc/1/cgroup").splitlines()
    assert inside[: len(inside) // 2] == inside[len(inside) // 2 :]


@pytest.mark.parametrize(("command", "code"), [("/bin/nothing", 127), ("nothing", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_run(box: Daemon, command: str, code: int) -> None:
    for verb in (("exec", "box"), ("run", "--rm", IMAGE)):
        failed = box.cli(*verb, command, check=False)
        assert failed.returncode == code
        assert command in failed.stderr
    assert len(box.out("ps", "-aq").split()) == 1


def test_attach_connects_both_ways_and_exits_with_the_container(daemon: Daemon) -> None:
    daemon.cli("run", "-d", "-i", "--name", "asker", IMAGE, "sh", "-c", "read name; echo hello $name; exit 4")
    done = daemon.cli("attach", "asker", stdin="harbour\n", check=False)
    assert (done.stdout, done.returncode) == ("hello harbour\n", 4)


def test_logs_keep_the_streams_apart(daemon: Daemon) -> None:
    daemon.cli("run", "--name", "talker", IMAGE, "sh", "-c", "echo out; echo err >&2; printf end")
    done = daemon.cli("logs", "talker")
    assert (done.stdout, done.stderr) == ("out\nend", "err\n")


def test_logs_tail_and_time(daemon: Daemon) -> None:
    daemon.cli("run", "--name", "talker", IMAGE, "seq", "1", "100")
    assert daemon.out("logs", "--tail", "3", "talker") == "98\n99\n100"
    assert daemon.out("logs", "--tail", "0", "talker") == ""
    assert daemon.out("logs", "--since", "1h", "talker").splitlines() == [str(n) for n in range(1, 101)]
    stamp, number = daemon.out("logs", "-t", "--tail", "1", "talker").split()
    assert number == "100"
    assert stamp.startswith(time.strftime("%Y-"))


def test_logs_follow_until_the_container_is_removed(daemon: Daemon) -> None:
    script = "echo first; until [ -e /tmp/go ]; do usleep 10000; done; echo last"
    daemon.cli("run", "-d", "--name", "talker", IMAGE, "sh", "-c", script)
    with daemon.popen("logs", "-f", "talker") as following:
        assert following.stdout is not None
        first = following.stdout.readline()
        # The script may see the file, and end with all in its container, before `touch` has.
        daemon.cli("exec", "talker", "touch", "/tmp/go", check=False)
        daemon.cli("wait", "talker")
        daemon.cli("rm", "talker")
        printed, _ = following.communicate(timeout=30)
    assert first + printed == b"first\nlast\n"


def test_stats_are_the_cgroups(box: Daemon) -> None:
    sample = json.loads(box.out("stats", "--no-stream", "--format", "json", "box"))
    (stats,) = sample if isinstance(sample, list) else [sample]
    assert stats["name"] == "box"
    assert stats["memory_usage_bytes"] > 0
    assert stats["pids"] == 1
    assert stats["cpu_usage_nanos"] > 0


def test_top_shows_processes_as_the_host_numbers_them(box: Daemon) -> None:
    assert str(box.inspect("box")["pid"]) in box.out("top", "box")
    assert "sleep 1000" in box.out("top", "box")


def test_events_tell_a_life_in_order(daemon: Daemon) -> None:
    daemon.cli("run", "--rm", "--name", "mayfly", IMAGE, "sh", "-c", "exit 3", check=False)
    lines = daemon.out(
        "events", "--after", "0", "--until", "0s", "-f", "object=mayfly", "--format", "json"
    ).splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["action"] for event in events] == ["create", "start", "die", "remove"]
    assert events[2]["attributes"]["exit_code"] == "3"
    numbers = [event["sequence"] for event in events]
    assert numbers == sorted(set(numbers))


def test_wait_prints_the_exit_code(daemon: Daemon) -> None:
    daemon.cli("run", "-d", "--name", "brief", IMAGE, "sh", "-c", "sleep 0.3; exit 6")
    assert daemon.out("wait", "brief") == "6"
    assert daemon.out("wait", "brief") == "6"


def test_stop_sends_the_stop_signal_and_then_kills(daemon: Daemon) -> None:
    polite = "trap 'echo bye; exit 5' TERM; echo ready; while true; do usleep 10000; done"
    daemon.cli("run", "-d", "--name", "polite", IMAGE, "sh", "-c", polite)
    daemon.cli(
        "run", "-d", "--name", "deaf", IMAGE, "sh", "-c", "trap '' TERM; echo ready; while true; do sleep 1; done"
    )
    for name in ("polite", "deaf"):
        printed_in_time(daemon, name, "ready")
    daemon.cli("stop", "-t", "30", "polite")
    daemon.cli("stop", "-t", "0", "deaf")
    assert daemon.inspect("polite")["exit_code"] == 5
    assert daemon.inspect("deaf")["exit_code"] == 137
    assert daemon.out("logs", "polite") == "ready\nbye"


def test_kill_sends_the_signal(daemon: Daemon) -> None:
    daemon.cli(
        "run",
        "-d",
        "--name",
        "counter",
        IMAGE,
        "sh",
        "-c",
        "trap 'exit 8' USR1; echo ready; while true; do usleep 9999; done",
    )
    printed_in_time(daemon, "counter", "ready")
    daemon.cli("kill", "-s", "USR1", "counter")
    assert daemon.out("wait", "counter") == "8"


def test_a_stopped_container_starts_again_with_its_files(daemon: Daemon) -> None:
    daemon.cli("run", "--name", "twice", IMAGE, "sh", "-c", "echo x >> /count; wc -l < /count")
    daemon.cli("start", "twice")
    daemon.cli("wait", "twice")
    assert daemon.out("logs", "twice") == "1\n2"


def test_prefixes_and_names_name_a_container(box: Daemon) -> None:
    identifier = box.inspect("box")["id"]
    assert box.inspect(identifier[:8])["name"] == "box"


def test_a_running_container_is_removed_only_by_force(box: Daemon) -> None:
    refused = box.cli("rm", "box", check=False)
    assert refused.returncode == 1
    assert "running" in refused.stderr
    box.cli("rm", "-f", "box")
    assert box.out("ps", "-aq") == ""


def test_a_used_image_is_not_removed(box: Daemon) -> None:
    refused = box.cli("rmi", IMAGE, check=False)
    assert refused.returncode == 1
    assert "box" in refused.stderr
    assert box.out("images", "-q") != ""


def test_networks_of_ones_own(daemon: Daemon) -> None:
    daemon.cli("network", "create", "quay", "--subnet", "10.219.7.0/24")
    try:
        daemon.cli("run", "-d", "--name", "moored", "--network", "quay", IMAGE, "sleep", "1000")
        assert daemon.inspect("moored")["endpoint"]["address"].startswith("10.219.7.")
        refused = daemon.cli("network", "rm", "quay", check=False)
        assert (refused.returncode, "moored" in refused.stderr) == (1, True)
    finally:
        daemon.remove_containers()
        daemon.cli("network", "rm", "quay")
