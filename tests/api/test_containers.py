"""RuntimeService over a real gRPC server: the life of containers, streams and errors."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from moorage.server.graph.drivers.base import UNLIMITED, WritableLayer
from moorage.v1 import runtime_pb2 as pb
from moorage.v1.runtime_pb2_grpc import RuntimeServiceStub
from tests.api.conftest import House

_numbers = itertools.count()


def config(*command: str, **fields: Any) -> pb.ContainerConfig:
    return pb.ContainerConfig(image="base", command=command, **fields)


def create(runtime: RuntimeServiceStub, *command: str, name: str = "", **fields: Any) -> str:
    return runtime.CreateContainer(pb.CreateContainerRequest(name=name, config=config(*command, **fields))).id


def started(runtime: RuntimeServiceStub, *command: str, **fields: Any) -> str:
    container = create(runtime, *command, **fields)
    runtime.StartContainer(pb.StartContainerRequest(id=container))
    return container


def get(runtime: RuntimeServiceStub, container: str) -> pb.Container:
    return runtime.GetContainer(pb.GetContainerRequest(id=container))


def new_name() -> str:
    return f"test{next(_numbers)}"


def failure(call: Any, request: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Status code, message and ErrorInfo metadata of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        list(call(request)) if hasattr(call(request), "__next__") else call(request)
    error: Any = caught.value
    status = rpc_status.from_call(error)
    assert status is not None and status.message == error.details()
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "moorage"
    return error.code(), error.details(), dict(info.metadata)


def test_a_container_from_create_to_remove(runtime: RuntimeServiceStub, house: House) -> None:
    name = new_name()
    container = create(runtime, "sleep", name=name, env=["B=mine"], labels={"a": "1"})
    made = get(runtime, name)
    assert (made.id, made.state, made.pid) == (container, pb.CONTAINER_STATE_CREATED, 0)
    assert list(made.command) == ["sleep"]
    pid = runtime.StartContainer(pb.StartContainerRequest(id=name)).pid
    running = get(runtime, container[:12])
    assert (running.state, running.pid, running.endpoint.network) == (pb.CONTAINER_STATE_RUNNING, pid, "bridge")
    env = house.kernel.specs[container].config["process"]["env"]
    assert "A=image" in env and "B=mine" in env and "B=image" not in env
    runtime.StopContainer(pb.StopContainerRequest(id=container))
    ended = get(runtime, container)
    assert (ended.state, ended.exit_code, ended.reason) == (pb.CONTAINER_STATE_EXITED, 143, "Error")
    assert ended.finished_at.seconds > 0
    runtime.RemoveContainer(pb.RemoveContainerRequest(id=container))
    assert failure(runtime.GetContainer, pb.GetContainerRequest(id=container))[0] == grpc.StatusCode.NOT_FOUND
    assert container not in house.graph.roots and container not in house.kernel.pods


def test_start_runs_in_order_and_names_what_it_needs(runtime: RuntimeServiceStub, house: House) -> None:
    container = started(runtime, "sleep")
    asked = [call[0] for call in house.kernel.calls if container in call]
    assert asked == ["order_pod", "configure_network", "start"]
    spec = house.kernel.specs[container]
    assert spec.log_path.endswith(f"{container}/output.log")
    assert spec.config["linux"]["cgroupsPath"] == get(runtime, container).cgroup_path
    runtime.RemoveContainer(pb.RemoveContainerRequest(id=container, force=True))


def test_a_command_that_does_not_exist_ends_the_container_with_127(runtime: RuntimeServiceStub, house: House) -> None:
    container = create(runtime, "nosuch")
    code, message, metadata = failure(runtime.StartContainer, pb.StartContainerRequest(id=container))
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "nosuch" in message
    assert metadata["exit_code"] == "127"
    ended = get(runtime, container)
    assert (ended.state, ended.exit_code, ended.reason) == (pb.CONTAINER_STATE_EXITED, 127, "StartError")
    assert "nosuch" in ended.error
    assert container not in house.kernel.pods


def test_a_start_that_fails_is_undone(runtime: RuntimeServiceStub, house: House) -> None:
    container = create(runtime, "broken")
    code, message, _ = failure(runtime.StartContainer, pb.StartContainerRequest(id=container))
    assert (code, message) == (grpc.StatusCode.INTERNAL, "the kernel is on fire")
    assert get(runtime, container).state == pb.CONTAINER_STATE_CREATED
    assert container not in house.kernel.pods


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"image": "absent"}, grpc.StatusCode.NOT_FOUND, "absent"),
        ({"image": ""}, grpc.StatusCode.INVALID_ARGUMENT, "image"),
        ({"image": "UPPER"}, grpc.StatusCode.INVALID_ARGUMENT, "UPPER"),
        ({"resources": pb.Resources(memory_limit_bytes=1)}, grpc.StatusCode.INVALID_ARGUMENT, "memory"),
        ({"resources": pb.Resources(cpu_nanos=10**15)}, grpc.StatusCode.INVALID_ARGUMENT, "cpu"),
        ({"network": pb.NetworkAttachment(network="nowhere")}, grpc.StatusCode.NOT_FOUND, "nowhere"),
        (
            {"network": pb.NetworkAttachment(network="host", ports=[pb.PortMapping(host_port=1, container_port=1)])},
            grpc.StatusCode.INVALID_ARGUMENT,
            "ports",
        ),
        (
            {"network": pb.NetworkAttachment(ports=[pb.PortMapping(host_port=70000, container_port=1)])},
            grpc.StatusCode.INVALID_ARGUMENT,
            "70000",
        ),
        ({"stop_signal": "SIGNONE"}, grpc.StatusCode.INVALID_ARGUMENT, "SIGNONE"),
        ({"mounts": [pb.Mount(source="/", target="relative")]}, grpc.StatusCode.INVALID_ARGUMENT, "relative"),
        ({"env": ["=x"]}, grpc.StatusCode.INVALID_ARGUMENT, "env"),
        ({"security": pb.Security(cap_add=["NONE_SUCH"])}, grpc.StatusCode.INVALID_ARGUMENT, "NONE_SUCH"),
    ],
)
def test_bad_configs_are_refused_with_the_thing_named(
    runtime: RuntimeServiceStub, house: House, fields: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    roots = set(house.graph.roots)
    wanted = pb.ContainerConfig(**({"image": "base", "command": ["true"]} | fields))
    got, message, _ = failure(runtime.CreateContainer, pb.CreateContainerRequest(config=wanted))
    assert got == code, message
    assert field in message
    assert house.graph.roots == roots


def test_a_name_is_one_containers(runtime: RuntimeServiceStub) -> None:
    name = new_name()
    holder = create(runtime, "true", name=name)
    request = pb.CreateContainerRequest(name=name, config=config("false"))
    code, message, metadata = failure(runtime.CreateContainer, request)
    assert code == grpc.StatusCode.ALREADY_EXISTS
    assert name in message and metadata["holder"] == holder
    assert failure(runtime.CreateContainer, pb.CreateContainerRequest(name="-bad", config=config("x")))[0] == (
        grpc.StatusCode.INVALID_ARGUMENT
    )


def test_wait_answers_the_end_also_to_those_who_came_early(runtime: RuntimeServiceStub) -> None:
    container = started(runtime, "sleep")
    with ThreadPoolExecutor() as pool:
        waiters = [pool.submit(runtime.WaitContainer, pb.WaitContainerRequest(id=container)) for _ in range(3)]
        time.sleep(0.1)
        assert not any(waiter.done() for waiter in waiters)
        runtime.KillContainer(pb.KillContainerRequest(id=container, signal="SIGUSR1"))
        assert {waiter.result(10).exit_code for waiter in waiters} == {138}
    assert runtime.WaitContainer(pb.WaitContainerRequest(id=container)).exit_code == 138


def test_out_of_memory_is_told(runtime: RuntimeServiceStub, house: House) -> None:
    container = started(runtime, "sleep")
    house.kernel.out_of_memory(container)
    end = runtime.WaitContainer(pb.WaitContainerRequest(id=container))
    assert (end.exit_code, end.oom_killed, end.reason) == (137, True, "OOMKilled")


def test_stop_kills_what_does_not_listen(runtime: RuntimeServiceStub) -> None:
    container = started(runtime, "stubborn")
    runtime.StopContainer(pb.StopContainerRequest(id=container, timeout_seconds=1))
    assert get(runtime, container).exit_code == 137
    runtime.StopContainer(pb.StopContainerRequest(id=container))


def test_kill_and_exec_need_a_running_container(runtime: RuntimeServiceStub) -> None:
    container = create(runtime, "true")
    assert (
        failure(runtime.KillContainer, pb.KillContainerRequest(id=container))[0] == grpc.StatusCode.FAILED_PRECONDITION
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(runtime.Exec(iter([pb.ExecRequest(open=pb.ExecRequest.Open(id=container, command=["true"]))])))
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_a_running_container_is_removed_only_by_force(runtime: RuntimeServiceStub) -> None:
    container = started(runtime, "sleep")
    code, _, metadata = failure(runtime.RemoveContainer, pb.RemoveContainerRequest(id=container))
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "force" in metadata["hint"]
    runtime.RemoveContainer(pb.RemoveContainerRequest(id=container, force=True))
    assert failure(runtime.GetContainer, pb.GetContainerRequest(id=container))[0] == grpc.StatusCode.NOT_FOUND


def test_auto_remove_takes_it_away_and_still_answers_its_code(runtime: RuntimeServiceStub) -> None:
    container = create(runtime, "exit", "5", auto_remove=True)
    opened = pb.AttachRequest(open=pb.AttachRequest.Open(id=container, start=True, stdout=True, lossless=True))
    answers = list(runtime.Attach(iter([opened])))
    assert answers[-1].exited.exit_code == 5
    assert failure(runtime.GetContainer, pb.GetContainerRequest(id=container))[0] == grpc.StatusCode.NOT_FOUND


def test_attach_with_start_misses_nothing_and_closes_stdin(runtime: RuntimeServiceStub) -> None:
    container = create(runtime, "cat", stdin_open=True)

    def requests() -> Iterator[pb.AttachRequest]:
        yield pb.AttachRequest(open=pb.AttachRequest.Open(id=container, start=True, stdin=True, stdout=True))
        yield pb.AttachRequest(stdin=b"hello ")
        yield pb.AttachRequest(stdin=b"world")

    answers = list(runtime.Attach(requests()))
    assert answers[0].started.pid > 0
    assert b"".join(answer.stdout for answer in answers) == b"hello world"
    assert answers[-1].exited.exit_code == 0
    assert get(runtime, container).state == pb.CONTAINER_STATE_EXITED


def test_exec_answers_output_and_code(runtime: RuntimeServiceStub, house: House) -> None:
    container = started(runtime, "sleep", env=["FROM=container"])
    opened = pb.ExecRequest.Open(
        id=container, command=["echo", "a", "b"], env=["X=1"], tty=True, size=pb.TerminalSize(width=80, height=24)
    )
    answers = list(runtime.Exec(iter([pb.ExecRequest(open=opened)])))
    assert b"".join(answer.stdout for answer in answers) == b"a b\n"
    assert answers[-1].exited.exit_code == 0
    spec = next(call[2] for call in house.kernel.calls if call[0] == "exec" and call[1] == container)
    assert {"FROM=container", "X=1"} <= set(spec.process["env"]) and spec.process["terminal"]
    assert ("resize", 80, 24) in house.kernel.calls
    runtime.RemoveContainer(pb.RemoveContainerRequest(id=container, force=True))


def test_exec_sync_answers_all_at_once(runtime: RuntimeServiceStub, house: House) -> None:
    container = started(runtime, "sleep")
    request = pb.ExecSyncRequest(id=container, command=["echo", "a"], env=["X=1"], working_dir="/tmp", user="7")
    done = runtime.ExecSync(request)
    assert (done.exit_code, done.stdout, done.stderr) == (0, b"a\n", b"")
    spec = next(call[2] for call in house.kernel.calls if call[0] == "exec" and call[1] == container)
    assert "X=1" in spec.process["env"] and spec.process["cwd"] == "/tmp" and spec.process["user"]["username"] == "7"
    assert runtime.ExecSync(pb.ExecSyncRequest(id=container, command=["exit", "7"])).exit_code == 7
    for request, code in (
        (pb.ExecSyncRequest(id=container, command=["sleep"], timeout_millis=50), grpc.StatusCode.DEADLINE_EXCEEDED),
        (pb.ExecSyncRequest(id=container), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.ExecSyncRequest(id="nobody", command=["true"]), grpc.StatusCode.NOT_FOUND),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            runtime.ExecSync(request)
        error: Any = caught.value
        assert error.code() == code
    runtime.RemoveContainer(pb.RemoveContainerRequest(id=container, force=True))


def test_exec_of_nothing_is_127(runtime: RuntimeServiceStub) -> None:
    container = started(runtime, "sleep")
    with pytest.raises(grpc.RpcError) as caught:
        list(runtime.Exec(iter([pb.ExecRequest(open=pb.ExecRequest.Open(id=container, command=["nosuch"]))])))
    status: Any = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert info.metadata["exit_code"] == "127"


def test_hanging_up_kills_what_was_executed(runtime: RuntimeServiceStub, house: House) -> None:
    container = started(runtime, "sleep")
    call = runtime.Exec(iter([pb.ExecRequest(open=pb.ExecRequest.Open(id=container, command=["sleep"]))]))
    pid = next(call).started.pid
    call.cancel()
    deadline = time.monotonic() + 10
    while ("signalled", pid, 9) not in house.kernel.calls:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("call", ["Attach", "Exec"])
def test_a_stream_must_begin_with_open(runtime: RuntimeServiceStub, call: str) -> None:
    message = pb.AttachRequest(stdin=b"x") if call == "Attach" else pb.ExecRequest(stdin=b"x")
    with pytest.raises(grpc.RpcError) as caught:
        list(getattr(runtime, call)(iter([message])))
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "open" in error.details()


def test_lists_filter_and_page(runtime: RuntimeServiceStub) -> None:
    tag = new_name()
    made = [create(runtime, "sleep", labels={"batch": tag, "n": str(n)}) for n in range(5)]
    runtime.StartContainer(pb.StartContainerRequest(id=made[2]))

    def ids(**fields: Any) -> list[str]:
        seen: list[str] = []
        token = ""
        while True:
            answer = runtime.ListContainers(
                pb.ListContainersRequest(labels={"batch": tag}, page_size=2, page_token=token, **fields)
            )
            assert len(answer.containers) <= 2
            seen += [container.id for container in answer.containers]
            token = answer.next_page_token
            if not token:
                return seen

    assert ids(all=True) == list(reversed(made))
    assert ids() == [made[2]]
    assert ids(states=[pb.CONTAINER_STATE_CREATED]) == [made[4], made[3], made[1], made[0]]
    assert ids(all=True, image="base") == list(reversed(made))
    assert ids(all=True, image="absent") == []
    runtime.RemoveContainer(pb.RemoveContainerRequest(id=made[2], force=True))


def test_stats_of_all_that_run(runtime: RuntimeServiceStub) -> None:
    container = started(runtime, "sleep", name=(name := new_name()))
    stream = runtime.GetStats(pb.GetStatsRequest(ids=[container], stream=True, interval_millis=100))
    first, second = next(stream).stats[0], next(stream).stats[0]
    stream.cancel()
    assert (first.name, first.memory_working_set_bytes, first.pids) == (name, 800, 3)
    assert second.cpu_usage_nano_cores > 0
    assert container in [stats.id for stats in next(runtime.GetStats(pb.GetStatsRequest())).stats]
    code, _, _ = failure(runtime.GetStats, pb.GetStatsRequest(stream=True, interval_millis=1))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    runtime.RemoveContainer(pb.RemoveContainerRequest(id=container, force=True))


def test_top_shows_processes(runtime: RuntimeServiceStub) -> None:
    container = started(runtime, "sleep")
    (process,) = runtime.ListProcesses(pb.ListProcessesRequest(id=container)).processes
    assert process.pid > 0 and process.command and process.memory_rss_bytes > 0
    runtime.RemoveContainer(pb.RemoveContainerRequest(id=container, force=True))


def test_identical_creates_join(runtime: RuntimeServiceStub, house: House) -> None:
    """A retry of a create that still runs gets its container instead of "name is in use"."""
    gate, entered = threading.Event(), threading.Event()
    original = house.graph.create_rootfs

    def slow(container_id: str, image_id: str, layer: WritableLayer = UNLIMITED) -> None:
        entered.set()
        assert gate.wait(10)
        original(container_id, image_id, layer)

    house.graph.create_rootfs = slow  # type: ignore[method-assign]
    try:
        name = new_name()
        with ThreadPoolExecutor() as pool:
            first = pool.submit(create, runtime, "true", name=name)
            assert entered.wait(10)
            second = pool.submit(create, runtime, "true", name=name)
            time.sleep(0.1)
            gate.set()
            assert first.result(10) == second.result(10)
    finally:
        house.graph.create_rootfs = original  # type: ignore[method-assign]


def test_a_size_that_cannot_be_held_is_refused(runtime: RuntimeServiceStub, house: House) -> None:
    name, roots = new_name(), set(house.graph.roots)
    for size, code in ((1 << 20, grpc.StatusCode.FAILED_PRECONDITION), (-1, grpc.StatusCode.INVALID_ARGUMENT)):
        with pytest.raises(grpc.RpcError) as refused:
            create(runtime, "true", name=name, rootfs_size_bytes=size)
        assert refused.value.code() == code
    assert house.graph.roots == roots


def test_an_ambiguous_prefix_is_not_not_found(runtime: RuntimeServiceStub) -> None:
    made = {create(runtime, "true")[:1] for _ in range(17)}
    letter = next(iter(made))
    while (
        sum(c.id.startswith(letter) for c in runtime.ListContainers(pb.ListContainersRequest(all=True)).containers) < 2
    ):
        create(runtime, "true")
    code, message, _ = failure(runtime.GetContainer, pb.GetContainerRequest(id=letter))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "ambiguous" in message
