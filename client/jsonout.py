"""Messages of `moorage.v1` as plain data for JSON output.

The shape is proto3's JSON mapping with the fields' own names, and three things made easier for scripts: fields at
their default are there, 64-bit numbers are numbers, and enum values are short and in lower case
(`CONTAINER_STATE_RUNNING` is `running`). Messages that are unset and optional scalars that are unset are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
    from google.protobuf.message import Message


def to_dict(message: Message) -> dict[str, Any]:
    """`message` as a dict of what JSON knows."""
    fields: Iterable[Any] = message.DESCRIPTOR.fields
    return {
        field.name: _field(field, getattr(message, field.name))
        for field in fields
        if not field.has_presence or message.HasField(field.name)
    }


def _field(field: FieldDescriptor, value: Any) -> Any:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        of = entry.fields_by_name["value"]
        return {str(key): _scalar(of, value[key]) for key in sorted(value)}
    return [_scalar(field, item) for item in value] if field.is_repeated else _scalar(field, value)


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return value.ToJsonString() if field.message_type.full_name == "google.protobuf.Timestamp" else to_dict(value)
    if field.enum_type is not None:
        return enum_word(field.enum_type, value)
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def enum_word(enum: EnumDescriptor, number: int) -> str:
    """The short name of an enum's value: `PULL_STAGE_DONE` is `done`; empty for the zero that means unsaid."""
    value = enum.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    word = value.name.removeprefix(prefix).lower()
    return "" if word == "unspecified" else word
