"""The other verbs against a scripted daemon: what they ask, what they print, how they exit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from moorage.client.main import main
from moorage.v1 import image_pb2, network_pb2, runtime_pb2, system_pb2
from tests.api.fake_daemon import FakeDaemon, Refusal

Capture = pytest.CaptureFixture[str]
ID = "c0ffee" + "0" * 58
DIGEST = "sha256:" + "ab" * 32

BOX = runtime_pb2.Container(
    id=ID,
    name="box",
    image_id=DIGEST,
    state=runtime_pb2.CONTAINER_STATE_RUNNING,
    pid=4242,
    created_at=Timestamp(seconds=1),
    started_at=Timestamp(seconds=1),
    command=["sh", "-c", "echo '\x1b[31mred'"],
    config=runtime_pb2.ContainerConfig(
        image="registry.example/app:1", resources=runtime_pb2.Resources(memory_limit_bytes=1 << 40)
    ),
    endpoint=runtime_pb2.Endpoint(
        network="bridge",
        ports=[
            runtime_pb2.PortMapping(host_port=8080, container_port=80, protocol=runtime_pb2.PROTOCOL_TCP),
            runtime_pb2.PortMapping(
                host_ip="::1", host_port=5353, container_port=53, protocol=runtime_pb2.PROTOCOL_UDP
            ),
        ],
    ),
)
GONE = runtime_pb2.Container(
    id="dead" + "0" * 60,
    name="gone",
    state=runtime_pb2.CONTAINER_STATE_EXITED,
    exit_code=137,
    oom_killed=True,
    created_at=Timestamp(seconds=1),
    finished_at=Timestamp(seconds=1),
)
IMAGE = image_pb2.Image(
    id=DIGEST,
    tags=["registry.example:5000/app:1", "registry.example:5000/app:latest"],
    size_bytes=12_300_000,
    created_at=Timestamp(seconds=1),
)
BRIDGE = network_pb2.Network(id="b" * 64, name="bridge", driver="bridge", subnet="10.210.0.0/20", gateway="10.210.0.1")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path)
    missing = Refusal("NOT_FOUND", "it does not exist", hint="look again")
    daemon.script |= {
        "ListContainers": runtime_pb2.ListContainersResponse(containers=[BOX, GONE]),
        "GetContainer": lambda request, context: {"box": BOX, "gone": GONE}.get(request.id, missing),
        "ListImages": image_pb2.ListImagesResponse(images=[IMAGE]),
        "GetImage": lambda request, context: IMAGE if request.reference == "app" else missing,
        "ListNetworks": network_pb2.ListNetworksResponse(networks=[BRIDGE]),
        "GetNetwork": lambda request, context: BRIDGE if request.network == "bridge" else missing,
    }
    with daemon.serving():
        yield daemon


def run(daemon: FakeDaemon, *arguments: str) -> int:
    return main(["-H", daemon.url, *arguments])


def printed(daemon: FakeDaemon, capfd: Capture, *arguments: str) -> str:
    """What a command that succeeds prints."""
    assert run(daemon, *arguments) == 0
    return capfd.readouterr().out


def test_ps_shows_an_aligned_table_without_escape_sequences(daemon: FakeDaemon, capfd: Capture) -> None:
    header, box, gone = printed(daemon, capfd, "ps", "-a", "--no-trunc").splitlines()
    assert box.startswith(f"{ID}   registry.example/app:1")
    assert "\x1b" not in box
    assert "\\x1b[31mred" in box
    assert "0.0.0.0:8080->80/tcp" in box
    assert "[::1]:5353->53/udp" in box
    assert "Exited (137) OOMKilled" in gone
    assert [line[header.index("NAME") :] for line in (box, gone)] == ["box", "gone"]
    assert box[header.index("STATUS") :].startswith("Up ")
    assert daemon.requests("ListContainers")[0].all


def test_ps_prints_only_ids(daemon: FakeDaemon, capfd: Capture) -> None:
    assert printed(daemon, capfd, "ps", "-aq") == f"{ID[:12]}\n{GONE.id[:12]}\n"
    assert printed(daemon, capfd, "ps", "-q", "--no-trunc") == f"{ID}\n{GONE.id}\n"


def test_ps_filters_at_the_daemon(daemon: FakeDaemon, capfd: Capture) -> None:
    filters = ("name=bo", "label=a=b", "label=c", "status=exited", "ancestor=app")
    printed(daemon, capfd, "ps", *(word for each in filters for word in ("-f", each)))
    assert daemon.requests("ListContainers")[0] == runtime_pb2.ListContainersRequest(
        name="bo", labels={"a": "b", "c": ""}, states=[runtime_pb2.CONTAINER_STATE_EXITED], image="app"
    )
    for wrong in ("colour=red", "status=asleep", "name"):
        assert run(daemon, "ps", "-f", wrong) == 2


def test_lists_are_read_page_by_page(daemon: FakeDaemon, capfd: Capture) -> None:
    def pages(request: Any, context: grpc.ServicerContext) -> runtime_pb2.ListContainersResponse:
        number = int(request.page_token or "0")
        container = runtime_pb2.Container(id=f"{number}" * 64)
        return runtime_pb2.ListContainersResponse(containers=[container], next_page_token=["1", "2", ""][number])

    daemon.script["ListContainers"] = pages
    assert printed(daemon, capfd, "ps", "-q") == f"{'0' * 12}\n{'1' * 12}\n{'2' * 12}\n"


@pytest.mark.parametrize(
    "arguments", [["ps"], ["images"], ["network", "ls"], ["jobs"], ["top", "box"], ["port", "box"]]
)
def test_json_is_one_list(daemon: FakeDaemon, capfd: Capture, arguments: list[str]) -> None:
    daemon.script["ListJobs"] = system_pb2.ListJobsResponse(jobs=[system_pb2.Job(id=1)])
    daemon.script["ListProcesses"] = runtime_pb2.ListProcessesResponse(processes=[runtime_pb2.Process(pid=1)])
    found = json.loads(printed(daemon, capfd, *arguments, "--format", "json"))
    assert isinstance(found, list)
    assert found


def test_inspect_has_what_scripts_rely_on(daemon: FakeDaemon, capfd: Capture) -> None:
    box = json.loads(printed(daemon, capfd, "inspect", "--format", "json", "box"))
    assert (box["pid"], box["state"], box["exit_code"], box["oom_killed"]) == (4242, "running", 0, False)
    assert box["config"]["resources"]["memory_limit_bytes"] == 1 << 40
    gone = json.loads(printed(daemon, capfd, "inspect", "gone"))
    assert (gone["pid"], gone["state"], gone["exit_code"], gone["oom_killed"]) == (0, "exited", 137, True)
    assert "started_at" not in gone


def test_inspect_looks_among_containers_then_images_then_networks(daemon: FakeDaemon, capfd: Capture) -> None:
    several = json.loads(printed(daemon, capfd, "inspect", "box", "app", "bridge"))
    assert [each["id"] for each in several] == [ID, DIGEST, BRIDGE.id]
    assert run(daemon, "inspect", "--type", "image", "box") == 1
    assert run(daemon, "inspect", "nothing") == 1
    assert "no container, image or network is called nothing" in capfd.readouterr().err


def test_images_has_a_row_a_tag(daemon: FakeDaemon, capfd: Capture) -> None:
    rows = [line.split()[:3] for line in printed(daemon, capfd, "images", "app").splitlines()[1:]]
    assert rows == [
        ["registry.example:5000/app", "1", "abababababab"],
        ["registry.example:5000/app", "latest", "abababababab"],
    ]
    assert daemon.requests("ListImages")[0].reference == "app"
    assert printed(daemon, capfd, "images", "-q") == "abababababab\n"


def test_pull_prints_only_the_id_when_quiet(
    daemon: FakeDaemon, capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemon.script["PullImage"] = [
        image_pb2.PullImageResponse(digest=DIGEST, stage=image_pb2.PULL_STAGE_DONE),
        image_pb2.PullImageResponse(image=IMAGE),
    ]
    assert run(daemon, "pull", "-q", "app") == 0
    assert capfd.readouterr() == (f"{DIGEST}\n", "")
    (tmp_path / "password").write_text("secret\n")
    with open(tmp_path / "password") as password:
        monkeypatch.setattr(sys, "stdin", password)
        assert run(daemon, "pull", "-u", "me", "--password-stdin", "app") == 0
    assert capfd.readouterr().out == f"app: {DIGEST} (12.3MB)\n"
    assert daemon.requests("PullImage")[1].auth == image_pb2.RegistryAuth(username="me", password="secret")


def test_a_pull_that_fails_says_why(daemon: FakeDaemon, capfd: Capture) -> None:
    daemon.script["PullImage"] = Refusal("UNAUTHENTICATED", "registry.example wants a password", hint="log in")
    assert run(daemon, "pull", "app") == 1
    assert capfd.readouterr().err == "moorage: registry.example wants a password\nhint: log in\n"


def test_logs_go_where_they_were_written(daemon: FakeDaemon, capfd: Capture) -> None:
    out, err = runtime_pb2.LOG_STREAM_STDOUT, runtime_pb2.LOG_STREAM_STDERR
    stamp = Timestamp(seconds=1_700_000_000, nanos=5)
    daemon.script["GetLogs"] = [
        runtime_pb2.GetLogsResponse(
            entries=[
                runtime_pb2.LogEntry(stream=out, time=stamp, data=b"lo", partial=True),
                runtime_pb2.LogEntry(stream=err, time=stamp, data=b"oops\n"),
            ]
        ),
        runtime_pb2.GetLogsResponse(entries=[runtime_pb2.LogEntry(stream=out, time=stamp, data=b"ng\n")]),
    ]
    assert run(daemon, "logs", "-n", "5", "--since", "2024-01-01T00:00:00Z", "box") == 0
    assert capfd.readouterr() == ("long\n", "oops\n")
    request = daemon.requests("GetLogs")[0]
    assert (request.tail_lines, request.since.seconds, request.follow) == (5, 1_704_067_200, False)
    assert run(daemon, "logs", "-f", "-t", "box") == 0
    when = "2023-11-14T22:13:20.000000005Z"
    assert capfd.readouterr() == (f"{when} long\n", f"{when} oops\n")
    assert not daemon.requests("GetLogs")[1].HasField("tail_lines")


def test_a_reader_that_leaves_ends_the_command(daemon: FakeDaemon) -> None:
    def endless(request: Any, context: grpc.ServicerContext) -> Iterator[runtime_pb2.GetLogsResponse]:
        entry = runtime_pb2.LogEntry(stream=runtime_pb2.LOG_STREAM_STDOUT, data=b"y\n" * 1000)
        while context.is_active():
            yield runtime_pb2.GetLogsResponse(entries=[entry])

    daemon.script["GetLogs"] = endless
    moorage = [sys.executable, "-m", "moorage.client.main", "-H", daemon.url, "logs", "-f", "box"]
    with subprocess.Popen(moorage, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_wait_prints_exit_codes(daemon: FakeDaemon, capfd: Capture) -> None:
    codes = {"a": 0, "b": 137}
    daemon.script["WaitContainer"] = lambda request, context: runtime_pb2.WaitContainerResponse(
        exit_code=codes[request.id]
    )
    assert printed(daemon, capfd, "wait", "a", "b") == "0\n137\n"


@pytest.mark.parametrize(
    ("arguments", "rpc", "response", "request_"),
    [
        (
            ["start"],
            "StartContainer",
            runtime_pb2.StartContainerResponse(),
            runtime_pb2.StartContainerRequest(id="box"),
        ),
        (
            ["stop", "-t", "0"],
            "StopContainer",
            runtime_pb2.StopContainerResponse(),
            runtime_pb2.StopContainerRequest(id="box", timeout_seconds=0),
        ),
        (["stop"], "StopContainer", runtime_pb2.StopContainerResponse(), runtime_pb2.StopContainerRequest(id="box")),
        (
            ["kill", "-s", "HUP"],
            "KillContainer",
            runtime_pb2.KillContainerResponse(),
            runtime_pb2.KillContainerRequest(id="box", signal="HUP"),
        ),
        (
            ["rm", "-f"],
            "RemoveContainer",
            runtime_pb2.RemoveContainerResponse(),
            runtime_pb2.RemoveContainerRequest(id="box", force=True),
        ),
        (
            ["network", "rm"],
            "RemoveNetwork",
            network_pb2.RemoveNetworkResponse(),
            network_pb2.RemoveNetworkRequest(network="box"),
        ),
    ],
)
def test_verbs_for_many_go_on_after_an_error(
    daemon: FakeDaemon, capfd: Capture, arguments: list[str], rpc: str, response: Any, request_: Any
) -> None:
    daemon.script[rpc] = lambda request, context: (
        response if request == request_ else Refusal("FAILED_PRECONDITION", "not now")
    )
    assert run(daemon, *arguments, "other", "box") == 1
    assert capfd.readouterr() == ("box\n", "moorage: not now\n")
    assert run(daemon, *arguments, "box") == 0


def test_rm_of_nothing_is_fine_only_by_force(daemon: FakeDaemon, capfd: Capture) -> None:
    daemon.script["RemoveContainer"] = Refusal("NOT_FOUND", "it does not exist")
    assert run(daemon, "rm", "nothing") == 1
    assert run(daemon, "rm", "-f", "nothing") == 0
    assert capfd.readouterr().out == ""


def test_rmi_tells_what_went(daemon: FakeDaemon, capfd: Capture) -> None:
    daemon.script["RemoveImage"] = image_pb2.RemoveImageResponse(
        untagged=["app:1"], deleted=[DIGEST], reclaimed_bytes=5_000_000
    )
    assert run(daemon, "rmi", "app:1") == 0
    assert capfd.readouterr() == (f"untagged: app:1\ndeleted: {DIGEST}\n", "reclaimed 5MB\n")
    daemon.script["RemoveImage"] = Refusal("NOT_FOUND", "it does not exist")
    assert run(daemon, "rmi", "app:1") == 1
    assert run(daemon, "rmi", "-f", "app:1") == 0
    daemon.script["RemoveImage"] = Refusal("FAILED_PRECONDITION", "box uses it")
    assert run(daemon, "rmi", "-f", "app:1") == 1


def test_port_lists_and_looks_up(daemon: FakeDaemon, capfd: Capture) -> None:
    assert printed(daemon, capfd, "port", "box") == "80/tcp -> 0.0.0.0:8080\n53/udp -> [::1]:5353\n"
    assert printed(daemon, capfd, "port", "box", "80") == "0.0.0.0:8080\n"
    assert printed(daemon, capfd, "port", "box", "53/udp") == "[::1]:5353\n"
    assert run(daemon, "port", "box", "53") == 1
    assert run(daemon, "port", "box", "http") == 2


def test_events_are_a_line_each(daemon: FakeDaemon, capfd: Capture) -> None:
    event = system_pb2.Event(
        sequence=7,
        time=Timestamp(seconds=1_700_000_000),
        kind="container",
        action="die",
        id=ID,
        name="box",
        attributes={"exit_code": "3"},
    )
    daemon.script["StreamEvents"] = [event, event]
    filters = ("-f", "kind=container", "-f", "action=die", "-f", "object=box")
    lines = printed(daemon, capfd, "events", "--after", "0", "--until", "1700000000", *filters).splitlines()
    assert lines == [f"2023-11-14T22:13:20Z container die {ID[:12]} (name=box, exit_code=3)"] * 2
    assert daemon.requests("StreamEvents")[0] == system_pb2.StreamEventsRequest(
        after_sequence=0,
        until=Timestamp(seconds=1_700_000_000),
        kinds=["container"],
        actions=["die"],
        object="box",
    )
    told = [json.loads(line) for line in printed(daemon, capfd, "events", "--format", "json").splitlines()]
    assert [each["sequence"] for each in told] == [7, 7]
    assert not daemon.requests("StreamEvents")[1].HasField("after_sequence")


def test_one_look_at_stats_waits_for_the_share_of_a_cpu(daemon: FakeDaemon, capfd: Capture) -> None:
    first = runtime_pb2.ContainerStats(id=ID, name="box", memory_limit_bytes=1 << 20)
    second = runtime_pb2.ContainerStats(
        id=ID,
        name="box",
        cpu_usage_nano_cores=500_000_000,
        memory_working_set_bytes=1 << 19,
        memory_limit_bytes=1 << 20,
    )
    daemon.script["GetStats"] = [runtime_pb2.GetStatsResponse(stats=[stats]) for stats in (first, second, first)]
    _, row = printed(daemon, capfd, "stats", "--no-stream", "--interval", "0.2", "box").splitlines()
    assert row.split() == [ID[:12], "box", "50.00%", "512KiB", "/", "1MiB", "50.00%", *("0B / 0B " * 2).split(), "0"]
    assert daemon.requests("GetStats")[0].interval_millis == 200
    found = json.loads(printed(daemon, capfd, "stats", "--no-stream", "--format", "json"))
    assert found[0]["memory_limit_bytes"] == 1 << 20


def test_top_lists_processes(daemon: FakeDaemon, capfd: Capture) -> None:
    process = runtime_pb2.Process(
        pid=42, parent_pid=1, state="S", cpu_usage_nanos=1_250_000_000, memory_rss_bytes=3 << 20, command=["sleep", "9"]
    )
    daemon.script["ListProcesses"] = runtime_pb2.ListProcessesResponse(processes=[process])
    _, row = printed(daemon, capfd, "top", "box").splitlines()
    assert row.split()[:6] == ["42", "1", "0", "S", "1.25s", "3MiB"]
    assert row.endswith("sleep 9")


def test_jobs_list_and_cancel(daemon: FakeDaemon, capfd: Capture) -> None:
    job = system_pb2.Job(
        id=12,
        verb="pull",
        object="app",
        caller="uid 0",
        state=system_pb2.JOB_STATE_RUNNING,
        duration_nanos=3_200_000_000,
        stages=[system_pb2.JobStage(name="fetch", duration_nanos=1_500_000)],
    )
    daemon.script |= {
        "ListJobs": system_pb2.ListJobsResponse(jobs=[job]),
        "CancelJob": system_pb2.CancelJobResponse(),
    }
    _, row = printed(daemon, capfd, "jobs", "-a").splitlines()
    assert row.split() == ["12", "pull", "app", "uid", "0", "running", "3.2s", "fetch", "1.5ms"]
    assert daemon.requests("ListJobs")[0].all
    assert printed(daemon, capfd, "jobs", "-q") == "12\n"
    assert printed(daemon, capfd, "jobs", "cancel", "12") == "12\n"
    assert daemon.requests("CancelJob")[0].id == 12


def test_networks(daemon: FakeDaemon, capfd: Capture) -> None:
    daemon.script["CreateNetwork"] = network_pb2.Network(id="n" * 64, name="quay")
    _, row = printed(daemon, capfd, "network", "ls").splitlines()
    assert row.split() == ["b" * 12, "bridge", "bridge", "10.210.0.0/20", "10.210.0.1", "0"]
    options = ("--subnet", "10.1.0.0/24", "--gateway", "10.1.0.9", "--internal", "--label", "a=b")
    assert printed(daemon, capfd, "network", "create", *options, "quay") == "n" * 64 + "\n"
    assert daemon.requests("CreateNetwork")[0] == network_pb2.CreateNetworkRequest(
        name="quay", subnet="10.1.0.0/24", gateway="10.1.0.9", internal=True, labels={"a": "b"}
    )
    assert json.loads(printed(daemon, capfd, "network", "inspect", "bridge"))["subnet"] == "10.210.0.0/20"


def test_info_and_version(daemon: FakeDaemon, capfd: Capture) -> None:
    daemon.script |= {
        "GetInfo": system_pb2.GetInfoResponse(instance="moorage", memory_bytes=1 << 30, warnings=["no apparmor"]),
        "GetVersion": system_pb2.GetVersionResponse(version="9.9.9"),
    }
    assert run(daemon, "info") == 0
    shown = capfd.readouterr()
    assert "Memory:        1GiB\n" in shown.out
    assert shown.err == "warning: no apparmor\n"
    assert json.loads(printed(daemon, capfd, "info", "--format", "json"))["instance"] == "moorage"
    assert "9.9.9" in printed(daemon, capfd, "version")
    versions = json.loads(printed(daemon, capfd, "version", "--format", "json"))
    assert versions["server"]["version"] == "9.9.9"
    assert versions["client"]["version"]


def test_completion_offers_names_from_the_daemon(daemon: FakeDaemon) -> None:
    environment = os.environ | {"_MOORAGE_COMPLETE": "bash_complete", "COMP_CWORD": "2", "MOORAGE_HOST": daemon.url}
    for words, expected in {"moorage stop b": "plain,box\n", "moorage images --no-t": "plain,--no-trunc\n"}.items():
        done = subprocess.run(
            [sys.executable, "-m", "moorage.client.main"],
            env=environment | {"COMP_WORDS": words},
            capture_output=True,
            text=True,
        )
        assert done.stdout == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, capfd: Capture) -> None:
    assert main(["completion", shell]) == 0
    assert "_MOORAGE_COMPLETE" in capfd.readouterr().out


def test_a_daemon_that_is_not_there(tmp_path: Path, capfd: Capture) -> None:
    url = f"unix://{tmp_path}/none.sock"
    assert main(["-H", url, "ps"]) == 1
    error, hint = capfd.readouterr().err.splitlines()
    assert error == f"moorage: cannot connect to the daemon at {url}: no such file or directory"
    assert f"mooraged --listen {url}" in hint
    assert main(["-H", url, "run", "busybox"]) == 125


def test_the_host_comes_from_the_environment(
    daemon: FakeDaemon, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOORAGE_HOST", daemon.url)
    assert main(["ps", "-q"]) == 0
    assert capfd.readouterr().out.startswith(ID[:12])
    monkeypatch.setenv("MOORAGE_HOST", "http://nowhere")
    assert main(["ps", "-q"]) == 1
    assert "malformed host 'http://nowhere'" in capfd.readouterr().err


def test_doctor_tells_and_judges(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from moorage.server import doctor

    findings = [
        doctor.Finding("kernel", "ok", "6.1"),
        doctor.Finding("veth", "missing", "no", "no bridges", "modprobe"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda root: findings)
    assert main(["doctor"]) == 1
    out = capfd.readouterr().out
    assert "missing  veth" in out
    assert "costs: no bridges" in out
    monkeypatch.setattr(doctor, "examine", lambda root: findings[:1])
    assert main(["doctor", "--format", "json"]) == 0
    assert json.loads(capfd.readouterr().out) == [
        {"name": "kernel", "state": "ok", "detail": "6.1", "cost": "", "hint": ""}
    ]
