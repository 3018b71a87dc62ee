"""The CRI that we serve is Kubernetes': every name, number, type and label of its specification, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

from moorage.cri.v1 import api_pb2

SPECIFICATION = Path(__file__).resolve().parents[1] / "cri" / "fields.txt"


def of_file(file: FileDescriptorProto) -> Iterator[str]:
    """What a .proto file fixes on the wire, in the layout of fields.txt."""
    yield f"package {file.package}"
    for service in file.service:
        yield from of_service(service)
    for message in file.message_type:
        yield from of_message(message, message.name)
    for enum in file.enum_type:
        yield from of_enum(enum, enum.name)


def of_service(service: ServiceDescriptorProto) -> Iterator[str]:
    for method in service.method:
        request = ("stream " if method.client_streaming else "") + short(method.input_type)
        response = ("stream " if method.server_streaming else "") + short(method.output_type)
        yield f"rpc {service.name}.{method.name} {request} {response}"


def of_message(message: DescriptorProto, name: str) -> Iterator[str]:
    yield f"message {name}"
    maps = {entry.name: entry for entry in message.nested_type if entry.options.map_entry}
    for field in message.field:
        presence = f"oneof {message.oneof_decl[field.oneof_index].name} " if field.HasField("oneof_index") else ""
        yield f"field {name}.{field.name} {field.number} {presence}{shape(field, maps)}"
    for enum in message.enum_type:
        yield from of_enum(enum, f"{name}.{enum.name}")
    for nested in message.nested_type:
        if nested.name not in maps:
            yield from of_message(nested, f"{name}.{nested.name}")


def of_enum(enum: EnumDescriptorProto, name: str) -> Iterator[str]:
    for value in enum.value:
        yield f"value {name}.{value.name} {value.number}"


def shape(field: FieldDescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    entry = maps.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        return f"map<{type_of(entry.field[0])},{type_of(entry.field[1])}>"
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return f"repeated {type_of(field)}" if repeated else type_of(field)


def type_of(field: FieldDescriptorProto) -> str:
    return short(field.type_name) or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def short(type_name: str) -> str:
    return type_name.removeprefix(".runtime.v1.")


def served() -> FileDescriptorProto:
    file = FileDescriptorProto()
    api_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def specified() -> list[str]:
    return [line for line in SPECIFICATION.read_text().splitlines() if line and not line.startswith("#")]


def message(file: FileDescriptorProto, name: str) -> DescriptorProto:
    return next(message for message in file.message_type if message.name == name)


def test_the_descriptor_is_the_specification() -> None:
    ours, theirs = set(of_file(served())), set(specified())
    assert sorted(theirs - ours) == [], "specified, but not served"
    assert sorted(ours - theirs) == [], "served, but not specified"


def test_the_specification_names_each_thing_once() -> None:
    names = [line.split()[1] for line in specified() if not line.startswith("message ")]
    assert len(names) == len(set(names))


def renumber(file: FileDescriptorProto) -> None:
    message(file, "Mount").field[0].number = 99


def retype(file: FileDescriptorProto) -> None:
    message(file, "PortMapping").field[1].type = FieldDescriptorProto.TYPE_INT64


def unrepeat(file: FileDescriptorProto) -> None:
    message(file, "DNSConfig").field[0].label = FieldDescriptorProto.LABEL_OPTIONAL


def retype_a_map(file: FileDescriptorProto) -> None:
    message(file, "Container").nested_type[0].field[1].type = FieldDescriptorProto.TYPE_BYTES


def lose_a_field(file: FileDescriptorProto) -> None:
    del message(file, "ContainerStatus").field[-1]


def lose_an_empty_message(file: FileDescriptorProto) -> None:
    file.message_type.remove(message(file, "ImageFsInfoRequest"))


def lose_a_value(file: FileDescriptorProto) -> None:
    del message(file, "SecurityProfile").enum_type[0].value[2]


def lose_an_rpc(file: FileDescriptorProto) -> None:
    del file.service[0].method[-1]


def unstream(file: FileDescriptorProto) -> None:
    next(method for method in file.service[1].method if method.name == "StreamImages").server_streaming = False


def move(file: FileDescriptorProto) -> None:
    file.package = "runtime.v1alpha2"


BREAKS = [
    renumber,
    retype,
    unrepeat,
    retype_a_map,
    lose_a_field,
    lose_an_empty_message,
    lose_a_value,
    lose_an_rpc,
    unstream,
    move,
]


@pytest.mark.parametrize("change", BREAKS, ids=lambda change: change.__name__)
def test_a_change_shows(change: Callable[[FileDescriptorProto], None]) -> None:
    file = served()
    change(file)
    assert set(of_file(file)) != set(specified())
