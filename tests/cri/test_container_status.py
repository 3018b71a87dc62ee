"""Containers: what their status says, how they end, and how they are stopped."""

from __future__ import annotations

import time

import pytest
from grpc import StatusCode

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import HANDLER, Cri, refused, until

pytestmark = pytest.mark.kernel

TRAP = "trap 'exit 3' TERM; trap 'exit 4' USR1; echo ready; while :; do sleep 0.01; done"


def test_a_created_container_has_not_started(cri: Cri) -> None:
    pod = cri.pod()
    before = time.time_ns()
    box = pod.create("true", labels={"a": "b"}, annotations={"c": "d"})
    status = box.status()
    assert status.state == api.CONTAINER_CREATED
    assert before <= status.created_at <= time.time_ns()
    assert (status.started_at, status.finished_at) == (0, 0)
    assert (dict(status.labels), dict(status.annotations)) == ({"a": "b"}, {"c": "d"})
    assert status.log_path == f"{pod.config.log_directory}/{status.metadata.name}.log"
    box.stop()
    assert box.status().state == api.CONTAINER_CREATED


@pytest.mark.parametrize(("code", "reason"), [(0, "Completed"), (7, "Error")])
def test_an_exit_code_has_a_reason(cri: Cri, code: int, reason: str) -> None:
    status = cri.pod().run("sh", "-c", f"exit {code}").ended()
    assert (status.exit_code, status.reason) == (code, reason)
    assert 0 < status.created_at <= status.started_at <= status.finished_at <= time.time_ns()


def test_a_command_that_is_not_there_fails_to_start(cri: Cri) -> None:
    box = cri.pod().create("/no/such/program")
    with pytest.raises(Exception, match="/no/such/program"):
        box.start()
    status = box.status()
    assert (status.state, status.exit_code, status.reason) == (api.CONTAINER_EXITED, 128, "StartError")
    assert "/no/such/program" in status.message
    assert status.finished_at > 0


def test_a_container_starts_once(cri: Cri) -> None:
    box = cri.pod().run("true")
    box.ended()
    with refused(StatusCode.FAILED_PRECONDITION):
        box.start()


def test_a_name_and_attempt_are_taken_once_in_a_pod(cri: Cri) -> None:
    pod = cri.pod()
    box = pod.create("true", name="main")
    with refused(StatusCode.ALREADY_EXISTS, box.id):
        pod.create("true", name="main")
    pod.create("true", metadata=api.ContainerMetadata(name="main", attempt=1))
    cri.pod().create("true", name="main")


def test_an_oom_kill_is_the_reason_of_the_end(cri: Cri) -> None:
    limit = {"resources": api.LinuxContainerResources(memory_limit_in_bytes=20 << 20)}
    status = cri.pod().run("sh", "-c", "dd if=/dev/zero of=/dev/null bs=100M", linux=limit).ended()
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)


def test_a_killed_child_counts_as_an_oom_kill(cri: Cri) -> None:
    limit = {"resources": api.LinuxContainerResources(memory_limit_in_bytes=20 << 20)}
    status = cri.pod().run("sh", "-c", "dd if=/dev/zero of=/dev/null bs=100M; exit 5", linux=limit).ended()
    assert (status.reason, status.exit_code) == ("OOMKilled", 5)


def test_stop_sends_sigterm_and_waits(cri: Cri) -> None:
    box = cri.pod().run("sh", "-c", TRAP)
    until(box.log)
    box.stop(10)
    assert box.status().exit_code == 3


def test_the_configs_stop_signal_comes_first(cri: Cri) -> None:
    box = cri.pod().run("sh", "-c", TRAP, stop_signal=api.SIGNAL_SIGUSR1)
    until(box.log)
    assert box.status().stop_signal == api.SIGNAL_SIGUSR1
    box.stop(10)
    assert box.status().exit_code == 4


def test_timeout_0_kills(cri: Cri) -> None:
    box = cri.pod().run("sh", "-c", TRAP)
    until(box.log)
    box.stop(0)
    assert (box.status().state, box.status().exit_code) == (api.CONTAINER_EXITED, 137)


def test_what_does_not_listen_is_killed_after_the_timeout(cri: Cri) -> None:
    box = cri.pod().run("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done")
    until(box.log)
    box.stop(1)
    assert box.status().exit_code == 137


def test_a_shell_that_only_runs_one_command_stops_on_sigterm(cri: Cri) -> None:
    """With a shared PID namespace it is not PID 1, whom signals without a handler do not reach."""
    box = cri.pod().run("sh", "-c", "echo ready; top -b > /dev/null")
    until(box.log)
    box.stop(20)
    assert box.status().exit_code == 143


def test_limits_show_in_the_status_and_in_the_cgroup(cri: Cri) -> None:
    asked = api.LinuxContainerResources(
        cpu_period=100_000, cpu_quota=50_000, cpu_shares=512, memory_limit_in_bytes=64 << 20, oom_score_adj=500
    )
    box = cri.pod().run("sleep", "1000", linux={"resources": asked})
    told = box.status().resources.linux
    assert (told.cpu_quota, told.cpu_period, told.cpu_shares) == (50_000, 100_000, 512)
    assert (told.memory_limit_in_bytes, told.oom_score_adj) == (64 << 20, 500)
    assert told.memory_swap_limit_in_bytes == 64 << 20
    wanted = api.LinuxContainerResources(cpu_quota=70_000, memory_limit_in_bytes=80 << 20)
    cri.runtime.UpdateContainerResources(api.UpdateContainerResourcesRequest(container_id=box.id, linux=wanted))
    told = box.status().resources.linux
    assert (told.cpu_quota, told.memory_limit_in_bytes, told.cpu_shares) == (70_000, 80 << 20, 512)
    read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert box.sh(read) == f"{80 << 20}\n"
    assert box.sh("cat /proc/1/oom_score_adj") == "500\n" or box.sh("cat /proc/self/oom_score_adj") == "500\n"


def test_a_small_limit_is_enough_to_start_and_to_exec(cri: Cri) -> None:
    """As small as a start by us allows it, which is less than an OCI runtime needs."""
    limit = 2 << 20 if not HANDLER else 16 << 20
    box = cri.pod().run("sleep", "1000", linux={"resources": api.LinuxContainerResources(memory_limit_in_bytes=limit)})
    assert box.sh("echo enough") == "enough\n"


def test_the_user_shows_in_the_status(cri: Cri) -> None:
    linux = {
        "run_as_user": api.Int64Value(value=1000),
        "run_as_group": api.Int64Value(value=2000),
        "supplemental_groups": [3000],
    }
    box = cri.pod().run("sleep", "1000", linux=linux)
    user = box.status().user.linux
    assert (user.uid, user.gid) == (1000, 2000)
    assert sorted(user.supplemental_groups) == [2000, 3000]


def test_the_user_is_whom_it_began_as(cri: Cri) -> None:
    """Not whom it has become since."""
    namespaces = api.NamespaceOption(pid=api.CONTAINER)
    box = cri.pod().run("sh", "-c", "exec su nobody -c 'exec sleep 1000'", linux={"namespace_options": namespaces})
    until(lambda: box.sh("id -u; grep ^Uid: /proc/1/status").split()[:3] == ["0", "Uid:", "65534"])
    assert box.status().user.linux.uid == 0


def test_a_containers_image_is_told_as_pulled(cri: Cri) -> None:
    box = cri.pod().create("true")
    status, pulled = box.status(), cri.image_status(cri.image).image
    assert status.image.image == cri.image
    assert status.image_id == pulled.id
    assert status.image_ref in {pulled.id, *pulled.repo_digests}
    assert cri.containers(id=box.id)[0].image_id == pulled.id


def test_an_image_that_is_not_there_is_not_found(cri: Cri) -> None:
    with refused(StatusCode.NOT_FOUND, "registry.example/test/nothing:1"):
        cri.pod().create("true", image="registry.example/test/nothing:1")


def test_an_update_of_nonsense_changes_nothing(cri: Cri) -> None:
    box = cri.pod().run("sleep", "1000", linux={"resources": api.LinuxContainerResources(cpu_shares=512)})
    bad = api.LinuxContainerResources(cpu_shares=256, cpuset_cpus="no-such")
    with refused(StatusCode.INVALID_ARGUMENT, "no-such"):
        cri.runtime.UpdateContainerResources(api.UpdateContainerResourcesRequest(container_id=box.id, linux=bad))
    assert box.status().resources.linux.cpu_shares == 512
