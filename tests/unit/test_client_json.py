"""Messages as JSON."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from moorage.client.jsonout import enum_word, to_dict
from moorage.v1 import image_pb2, runtime_pb2, system_pb2


def test_defaults_are_there_and_unset_messages_are_not() -> None:
    empty = to_dict(runtime_pb2.Container())
    assert (empty["pid"], empty["exit_code"], empty["oom_killed"], empty["state"]) == (0, 0, False, "")
    assert empty["command"] == []
    assert not {"config", "created_at", "endpoint"} & empty.keys()


def test_enums_numbers_maps_times_and_lists() -> None:
    container = runtime_pb2.Container(
        state=runtime_pb2.CONTAINER_STATE_EXITED,
        size_rw_bytes=1 << 50,
        created_at=Timestamp(seconds=1, nanos=500_000_000),
        config=runtime_pb2.ContainerConfig(
            labels={"b": "2", "a": "1"},
            stop_timeout_seconds=0,
            mounts=[runtime_pb2.Mount(kind=runtime_pb2.Mount.KIND_TMPFS, target="/t")],
            network=runtime_pb2.NetworkAttachment(
                ports=[runtime_pb2.PortMapping(protocol=runtime_pb2.PROTOCOL_UDP, container_port=53)]
            ),
        ),
    )
    found = to_dict(container)
    assert (found["state"], found["size_rw_bytes"], found["created_at"]) == (
        "exited",
        1 << 50,
        "1970-01-01T00:00:01.500Z",
    )
    config = found["config"]
    assert list(config["labels"].items()) == [("a", "1"), ("b", "2")]
    assert config["stop_timeout_seconds"] == 0
    assert config["mounts"][0]["kind"] == "tmpfs"
    assert config["network"]["ports"] == [{"host_ip": "", "host_port": 0, "container_port": 53, "protocol": "udp"}]


def test_words_of_enums() -> None:
    assert enum_word(image_pb2.PullStage.DESCRIPTOR, image_pb2.PULL_STAGE_DONE) == "done"
    assert enum_word(system_pb2.JobState.DESCRIPTOR, 0) == ""
    assert enum_word(system_pb2.JobState.DESCRIPTOR, 77) == "77"


def test_bytes_that_are_not_text_are_escaped() -> None:
    assert to_dict(runtime_pb2.LogEntry(data=b"\xffok"))["data"] == "\\xffok"
