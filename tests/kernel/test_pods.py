"""Pods on the real kernel: what their containers share and what not, and what outlives what."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from moorage.server.engine import commands
from moorage.server.engine import podcommands as pods
from moorage.server.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, Unavailable
from moorage.server.model import IdMap, Mount, Resources, Security
from tests.podhouse import House

pytestmark = pytest.mark.kernel

HOST = 300_000
USERS = (IdMap(0, HOST, 65536),)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with House.temporary() as house, house.running():
        yield house


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_containers_share_network_ipc_and_names(house: House) -> None:
    pod_id = await house.pod(hostname="box")
    await house.sh(pod_id, "echo page | nc -l -p 8000", name="serves")
    shell = await house.sh(pod_id, "exec sleep 1000", name="shell")
    async with asyncio.timeout(20):
        while (page := await house.exec(shell, "nc 127.0.0.1 8000 </dev/null || true")) != "page":
            await asyncio.sleep(0.05)
    assert page == "page"
    assert await house.exec(shell, "hostname; echo $HOSTNAME") == "box\nbox"
    address = (await house.run(pods.InspectPod(pod_id))).endpoint.address.partition("/")[0]
    assert address in await house.exec(shell, "ip addr show eth0; cat /etc/hosts")
    await house.exec(shell, "echo shared >/dev/shm/file")
    assert await house.says(pod_id, "cat /dev/shm/file", name="reads") == "shared"


async def test_process_1_of_a_shared_pid_namespace_is_nobodys(house: House) -> None:
    pod_id = await house.pod()
    sleeper = await house.sh(pod_id, "exec sleep 1000", name="sleeper", pid="pod")
    looks = await house.sh(pod_id, "sleep 1001 & sleep 1002", name="looks", pid="pod")
    seen = await house.exec(looks, "cat /proc/1/status; ls /proc/1/root/; ps")
    assert "Uid:\t65534" in seen and "CapEff:\t0000000000000000" in seen
    assert "sleep 1000" in seen and "sleep 1002" in seen
    # As any process but process 1 it dies of the signal, and its end is nobody else's.
    await house.run(commands.Stop(sleeper, 10))
    assert (await house.inspect(sleeper)).exit.exit_code == 143  # type: ignore[union-attr]
    await house.run(commands.Stop(looks, 0))
    assert (await house.inspect(looks)).exit.exit_code == 137  # type: ignore[union-attr]
    alone = await house.sh(pod_id, "exec sleep 1000", name="alone")
    assert "sleep 1000" in (await house.exec(alone, "tr '\\0' ' ' </proc/1/cmdline"))


async def test_orphans_of_a_shared_pid_namespace_are_reaped(house: House) -> None:
    pod_id = await house.pod()
    container = await house.sh(pod_id, "for i in 1 2 3; do (sleep 0.01 &); done; sleep 0.3; ps -o stat,comm", pid="pod")
    await house.run(commands.Wait(container))
    assert "Z" not in [line.split()[0] for line in house.logged("main").splitlines()]


async def test_a_container_joins_another_ones_processes(house: House) -> None:
    pod_id = await house.pod()
    target = await house.sh(pod_id, "exec sleep 1234", name="target")
    assert "sleep 1234" in await house.says(pod_id, "ps", name="debug", pid=target)
    assert await house.state(target) == "running"


async def test_host_namespaces(house: House) -> None:
    pod_id = await house.pod(network="host", ipc="host", pid="host")
    seen = await house.says(pod_id, "hostname; for k in net ipc pid; do readlink /proc/self/ns/$k; done", pid="host")
    own = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "ipc", "pid")]
    assert seen.split("\n") == [socket.gethostname(), *own]


async def test_users_of_a_pod_are_nobody_outside(house: House, tmp_path: Path) -> None:
    pod_id = await house.pod(users=USERS)
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "mine").write_text("x")
    mount = Mount("bind", "/volume", str(tmp_path / "volume"), id_map=USERS)
    plain = Mount("bind", "/plain", str(tmp_path / "volume"))
    container = await house.sh(pod_id, "exec sleep 1000", mounts=(mount, plain), pid="pod")
    assert (await house.exec(container, "cat /proc/self/uid_map")).split() == ["0", str(HOST), "65536"]
    assert await house.exec(container, "stat -c %u:%g /bin/busybox /srv/site/index /dev /") == "0:0\n0:0\n0:0\n0:0"
    assert await house.exec(container, "stat -c %u /volume/mine /plain/mine") == "0\n65534"
    assert await house.exec(container, "touch /volume/new /new; stat -c %u /volume/new /new") == "0\n0"
    assert (tmp_path / "volume" / "new").stat().st_uid == 0
    assert await house.exec(container, "ls /sys/class/net; cat /sys/class/net/eth0/mtu; id -u; echo >/dev/null") != ""
    assert "not permitted" in await house.exec(container, "mount -t tmpfs x /tmp; hostname other 2>&1")
    pid = (await house.inspect(container)).pid
    assert f"Uid:\t{HOST}" in Path(f"/proc/{pid}/status").read_text()
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    await house.run(commands.Stop(container, 0))
    assert (
        await house.says(pod_id, "id -u; id -G; stat -c %u /proc/self/fd/1", name="bob", user="bob")
        == "1000\n1000 50\n1000"
    )


async def test_what_is_mounted_below_is_read_only_when_that_is_asked_for(house: House, shared_mount: Path) -> None:
    (shared_mount / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "moorage-below", shared_mount / "below"], check=True)
    pod_id = await house.pod()
    script = "touch /m/a 2>/dev/null && echo top; touch /m/below/a 2>/dev/null && echo below; echo"
    mount = Mount("bind", "/m", str(shared_mount), read_only=True)
    assert (await house.says(pod_id, script, name="plain", mounts=(mount,))).strip() == "below"
    deep = Mount("bind", "/m", str(shared_mount), read_only=True, recursive_read_only=True)
    assert (await house.says(pod_id, script, name="deep", mounts=(deep,))).strip() == ""


async def test_mounts_spread_as_asked_for(house: House, shared_mount: Path) -> None:
    pod_id = await house.pod(security=Security(privileged=True))
    mounts = {
        kind: Mount("bind", "/m", str(shared_mount), propagation=kind) for kind in ("rprivate", "rslave", "rshared")
    }
    security = Security(privileged=True)
    running = {
        kind: await house.sh(pod_id, "sleep 1000", name=kind, mounts=(mount,), security=security)
        for kind, mount in mounts.items()
    }
    (shared_mount / "in").mkdir()
    (shared_mount / "out").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "moorage-in", shared_mount / "in"], check=True)
    (shared_mount / "in" / "file").touch()
    seen = {kind: await house.exec(container, "ls /m/in") for kind, container in running.items()}
    assert seen == {"rprivate": "", "rslave": "file", "rshared": "file"}
    await house.exec(running["rslave"], "mount -t tmpfs moorage-x /m/out")
    assert not os.path.ismount(shared_mount / "out")
    await house.exec(running["rshared"], "mount -t tmpfs moorage-x /m/out")
    assert os.path.ismount(shared_mount / "out")
    with pytest.raises(InvalidArgument, match="not on a shared mount"):
        await house.container(pod_id, name="no", mounts=(Mount("bind", "/m", "/proc", propagation="rshared"),))


@pytest.fixture
def shared_mount(tmp_path: Path) -> Any:
    """A mount of its own that spreads what is mounted there."""
    top = tmp_path / "moorage-shared"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "moorage-shared", top], check=True)
    subprocess.run(["mount", "--make-shared", top], check=True)
    yield top
    subprocess.run(["umount", "-R", top], check=True)


@pytest.mark.parametrize("users", [(), USERS], ids=["host users", "own users"])
async def test_an_image_is_shown_as_a_volume(house: House, users: tuple[IdMap, ...]) -> None:
    pod_id = await house.pod(users=users)
    whole = Mount("image", "/whole", "base", read_only=True)
    part = Mount("image", "/part", "base", read_only=True, sub_path="srv/site")
    script = (
        "cat /whole/srv/site/index /part/index; stat -c %u /part/index; touch /part/x 2>&1 || ls /whole/bin | wc -l"
    )
    lines = (await house.says(pod_id, script, mounts=(whole, part))).splitlines()
    assert lines[:3] == ["hello", "hello", "0"]
    assert "Read-only" in lines[3] and int(lines[4]) > 20
    missing = Mount("image", "/part", "base", read_only=True, sub_path="nowhere")
    with pytest.raises(FailedPrecondition, match="nowhere"):
        await house.started(pod_id, "true", name="missing", mounts=(missing,))


async def test_groups_of_a_user(house: House) -> None:
    pod_id = await house.pod()
    cases = {
        "merged": ("bob", Security(groups=(7,)), "1000 7 50"),
        "strict": ("bob", Security(groups=(7,), strict_groups=True), "1000 7"),
        "main": ("1000:2000", Security(groups=(7,)), "2000 7 50"),
    }
    for name, (user, security, groups) in cases.items():
        container = await house.sh(pod_id, "id -G; sleep 1000", name=name, user=user, security=security)
        await until(lambda name=name: house.logged(name) != "")  # type: ignore[misc]
        assert house.logged(name) == groups
        assert await house.exec(container, "id -G") == groups


async def test_ambient_capabilities_reach_a_user(house: House) -> None:
    pod_id = await house.pod()
    security = Security(cap_add=("NET_ADMIN",), cap_ambient=("NET_ADMIN",))
    status = await house.says(pod_id, "grep Cap /proc/self/status", user="bob", security=security)
    sets = dict(line.split(":\t") for line in status.splitlines())
    assert sets["CapAmb"] == sets["CapEff"] == "0000000000001000"


async def test_limits_are_those_of_container_and_pod(house: House) -> None:
    parent = f"/moorage-test-{os.getpid()}"
    pod_id = await house.pod(cgroup_parent=parent, resources=Resources(memory=256 << 20))
    container = await house.sh(
        pod_id, "exec sleep 1000", resources=Resources(memory=64 << 20, cpu_period=50000, cpu_quota=20000)
    )
    directory = Path("/sys/fs/cgroup/memory") / parent[1:] / pod_id
    limit = "memory.limit_in_bytes"
    assert int((directory / limit).read_text()) == 256 << 20
    assert int((directory / container / limit).read_text()) == 64 << 20
    await house.run(commands.Update(container, Resources(memory=96 << 20, cpu_quota=30000)))
    assert int((directory / container / limit).read_text()) == 96 << 20
    cpu = Path("/sys/fs/cgroup/cpu") / parent[1:] / pod_id / container
    assert [(cpu / f"cpu.cfs_{name}_us").read_text() for name in ("period", "quota")] == ["50000\n", "30000\n"]
    (sample,) = await house.run(pods.SamplePods())
    assert (sample.pids, len(sample.containers), sample.containers[0].memory_limit) == (1, 1, 96 << 20)
    assert sample.memory >= sample.containers[0].memory > 0
    await house.run(pods.RemovePod(pod_id))
    house.daemon.rooms.cgroups.prune(parent)
    assert not directory.parent.exists()


async def test_exec_sync_ends_on_time_with_all_that_it_started(house: House) -> None:
    pod_id = await house.pod()
    container = await house.sh(pod_id, "exec sleep 1000")
    with pytest.raises(DeadlineExceeded):
        await house.exec(container, "sleep 1001 & sleep 1002", timeout=0.3)
    async with asyncio.timeout(20):
        while "sleep 100" in (await house.exec(container, "ps | grep -v 'sleep 1000' | grep -v grep || true")):
            await asyncio.sleep(0.02)
    done = await house.run(commands.ExecSync(container, ("sh", "-c", "echo out; echo err >&2; exit 3")))
    assert done == commands.ExecResult(b"out\n", b"err\n", 3)


async def test_exec_sync_drops_what_is_too_much_and_leaves_who_holds_the_pipe(house: House) -> None:
    pod_id = await house.pod()
    container = await house.sh(pod_id, "exec sleep 1000")
    done = await house.run(commands.ExecSync(container, ("sh", "-c", "head -c 20000000 /dev/zero")))
    assert (len(done.stdout), done.exit_code) == (16 << 20, 0)
    held = await house.run(commands.ExecSync(container, ("sh", "-c", "yes & exit 4"), 20))
    assert held.exit_code == 4


async def test_a_port_is_dialled_from_inside(house: House) -> None:
    for network in ("pod", "host"):
        pod_id = await house.pod(network=network)
        port = 8000 if network == "pod" else _free_port()
        await house.sh(pod_id, f"while :; do echo hi | nc -l -p {port} ; done", name=network)

        async def dial(pod_id: str = pod_id, port: int = port) -> socket.socket:
            while True:
                try:
                    return await house.run(pods.DialPod(pod_id, port))  # type: ignore[no-any-return]
                except Unavailable:
                    await asyncio.sleep(0.05)

        async with asyncio.timeout(20):
            with await dial() as sock:
                assert await asyncio.to_thread(sock.recv, 100) == b"hi\n"
        with pytest.raises(Unavailable, match="refused"):
            await house.run(pods.DialPod(pod_id, 1))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_no_line_is_lost_when_a_log_is_reopened(house: House) -> None:
    pod_id = await house.pod()
    container = await house.sh(pod_id, "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; sleep 1000")
    log = house.logs / "main.log"
    for number in range(5):
        log.rename(house.logs / f"main.log.{number}")
        await house.run(commands.ReopenLog(container))
        assert log.exists()
    await until(lambda: "F 19999\n" in log.read_text())
    files = [*(house.logs / f"main.log.{number}" for number in range(5)), log]
    lines = [line.split(" ")[3] for file in files for line in file.read_text().splitlines()]
    assert lines == [str(number) for number in range(20000)]
    assert log.stat().st_mode & 0o777 == 0o640
    await house.run(commands.Stop(container, 0))
    log.unlink()
    with pytest.raises(FailedPrecondition):
        await house.run(commands.ReopenLog(container))
    assert not log.exists()
