"""Look-up by ID or unique prefix, and the filters of the List calls: all conditions must hold, an unknown ID matches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api.cri.convert_container import container_state
from moorage.server.api.cri.convert_pod import pod_state
from moorage.server.errors import InvalidArgument
from moorage.server.model import Container, PodRecord


class Identified(Protocol):
    """Anything with an ID."""

    @property
    def id(self) -> str:
        """Its ID."""
        ...


T = TypeVar("T", bound=Identified)


def by_id(items: Sequence[T], text: str, what: str) -> T | None:
    """The item of that ID, or of the only ID that begins so. Raises InvalidArgument when several do."""
    found = [item for item in items if item.id.startswith(text)]
    if len(found) > 1:
        exact = [item for item in found if item.id == text]
        if not exact:
            some = ", ".join(sorted(item.id for item in found)[:5])
            raise InvalidArgument(f"{what} ID prefix {text!r} is ambiguous: {some}", hint="give more of the ID")
        return exact[0]
    return found[0] if found else None


def _narrow(items: Sequence[T], text: str, what: str) -> Sequence[T]:
    if not text:
        return items
    found = by_id(items, text, what)
    return [] if found is None else [found]


def has_labels(own: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Every label asked for is there with that very value."""
    return all(own.get(key) == value for key, value in selector.items())


def pods(records: Sequence[PodRecord], wanted: pb.PodSandboxFilter) -> list[PodRecord]:
    """The pods that a filter lets through."""
    return [
        record
        for record in _narrow(records, wanted.id, "pod")
        if (not wanted.HasField("state") or pod_state(record) == wanted.state.state)
        and has_labels(record.config.labels, wanted.label_selector)
    ]


def pods_with_stats(records: Sequence[PodRecord], wanted: pb.PodSandboxStatsFilter) -> list[PodRecord]:
    """The ready pods that a filter of statistics lets through."""
    return [
        record
        for record in _narrow(records, wanted.id, "pod")
        if record.state == "ready" and has_labels(record.config.labels, wanted.label_selector)
    ]


def containers(values: Sequence[Container], wanted: pb.ContainerFilter) -> list[Container]:
    """The containers that a filter lets through."""
    return [
        value
        for value in _of_pod(values, wanted.id, wanted.pod_sandbox_id)
        if (not wanted.HasField("state") or container_state(value) == wanted.state.state)
        and has_labels(value.config.labels, wanted.label_selector)
    ]


def containers_with_stats(values: Sequence[Container], wanted: pb.ContainerStatsFilter) -> list[Container]:
    """The running containers that a filter of statistics lets through."""
    return [
        value
        for value in _of_pod(values, wanted.id, wanted.pod_sandbox_id)
        if value.state == "running" and has_labels(value.config.labels, wanted.label_selector)
    ]


def _of_pod(values: Sequence[Container], text: str, pod_text: str) -> Iterable[Container]:
    chosen = _narrow(values, text, "container")
    if not pod_text:
        return chosen
    pod_ids = {value.pod_id for value in values if value.pod_id.startswith(pod_text)}
    if len(pod_ids) > 1 and pod_text not in pod_ids:
        raise InvalidArgument(f"pod ID prefix {pod_text!r} is ambiguous: {', '.join(sorted(pod_ids)[:5])}")
    return [value for value in chosen if value.pod_id.startswith(pod_text)]
