"""What pods and containers have in common in CRI: resources, namespaces, security profiles, signals."""

from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.errors import InvalidArgument
from moorage.server.model import IdMap, Resources

M = TypeVar("M", bound=Message)

MAX_PROFILE = 256 << 10
MAX_ID = (1 << 31) - 1
BATCH_BYTES = 1 << 20
"""What one message of a streamed list holds at most, unless a single item is larger."""

SIGNALS = {
    number: re.sub(r"PLUS(\d+)$", r"+\1", re.sub(r"MINUS(\d+)$", r"-\1", name.removeprefix("SIGNAL_")))
    for name, number in pb.Signal.items()
    if number
}
"""CRI's numbers to the names that kill(1) knows."""
_SIGNAL_MESSAGES = {name: number for number, name in SIGNALS.items()}


def batches(messages: Iterable[M]) -> Iterator[list[M]]:
    """The messages in lists that stay well below what a client takes in one."""
    batch: list[M] = []
    size = 0
    for message in messages:
        batch.append(message)
        size += message.ByteSize()
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def signal_message(name: str) -> pb.Signal:
    """A stop signal as the engine keeps it: a name, with or without SIG, or a number."""
    upper = name.upper()
    if upper.isdecimal():
        upper = next((known.name for known in signal.Signals if known == int(upper)), "")
    return cast("pb.Signal", _SIGNAL_MESSAGES.get(upper if upper.startswith("SIG") else f"SIG{upper}", 0))


def resources(message: pb.LinuxContainerResources) -> Resources:
    """Limits. Raises InvalidArgument."""
    for field in ("cpu_period", "cpu_shares", "memory_limit_in_bytes"):
        if getattr(message, field) < 0:
            raise InvalidArgument(f"{field} must not be negative", field=field)
    if not -1000 <= message.oom_score_adj <= 1000:
        raise InvalidArgument(
            f"oom_score_adj {message.oom_score_adj} is not between -1000 and 1000", field="oom_score_adj"
        )
    return Resources(
        memory=message.memory_limit_in_bytes,
        memory_swap=message.memory_swap_limit_in_bytes,
        cpu_shares=message.cpu_shares,
        cpu_period=message.cpu_period,
        cpu_quota=message.cpu_quota,
        cpuset_cpus=message.cpuset_cpus,
        cpuset_mems=message.cpuset_mems,
        oom_score_adj=message.oom_score_adj,
        hugepages=tuple((limit.page_size, limit.limit) for limit in message.hugepage_limits),
        unified=dict(message.unified),
    )


def resources_message(value: Resources) -> pb.LinuxContainerResources:
    """Limits, outward."""
    return pb.LinuxContainerResources(
        memory_limit_in_bytes=value.memory,
        memory_swap_limit_in_bytes=value.memory_swap,
        cpu_shares=value.cpu_shares,
        cpu_period=value.cpu_period,
        cpu_quota=value.cpu_quota,
        cpuset_cpus=value.cpuset_cpus,
        cpuset_mems=value.cpuset_mems,
        oom_score_adj=value.oom_score_adj or 0,
        hugepage_limits=[pb.HugepageLimit(page_size=size, limit=limit) for size, limit in value.hugepages],
        unified=value.unified,
    )


# --- users ------------------------------------------------------------------------------------------------------------


def user(security: Any) -> str:
    """`user[:group]` of a security context, empty when it names none. Raises InvalidArgument for a group alone."""
    name = getattr(security, "run_as_username", "")
    if not name and security.HasField("run_as_user"):
        name = str(_id(security.run_as_user.value, "run_as_user"))
    if not security.HasField("run_as_group"):
        return name
    if not name:
        raise InvalidArgument("run_as_group needs a user: run_as_user or run_as_username", field="run_as_group")
    return f"{name}:{_id(security.run_as_group.value, 'run_as_group')}"


def fill_user(security: Any, text: str) -> None:
    """The reverse of `user`: set the fields of a security context."""
    name, _, group = text.partition(":")
    if name.isdecimal():
        security.run_as_user.value = int(name)
    elif name:
        security.run_as_username = name
    if group:
        security.run_as_group.value = int(group)


def groups(security: Any) -> tuple[int, ...]:
    """Supplementary groups. Raises InvalidArgument."""
    return tuple(_id(group, "supplemental_groups") for group in security.supplemental_groups)


def _id(number: int, field: str) -> int:
    if not 0 <= number <= MAX_ID:
        raise InvalidArgument(f"{field}: {number} is not an ID between 0 and {MAX_ID}", field=field)
    return number


def user_maps(options: pb.UserNamespace) -> tuple[tuple[IdMap, ...], tuple[IdMap, ...]]:
    """The maps of users and of groups; empty ones are the host's user namespace. Raises InvalidArgument."""
    if options.mode == pb.NODE:
        if options.uids or options.gids:
            raise InvalidArgument("the host's user namespace (NODE) takes no mappings", field="userns_options")
        return (), ()
    if options.mode != pb.POD:
        mode = pb.NamespaceMode.Name(options.mode)
        raise InvalidArgument(
            f"a user namespace is the pod's (POD) or the host's (NODE), not {mode}", field="userns_options"
        )
    return _map(options.uids, "uids"), _map(options.gids, "gids")


def check_pid_of_mapped(mode: int, handler: str) -> None:
    """Refuse what an OCI runtime cannot join, as it enters the pod's user namespace first: a PID namespace that belongs to another one.

    `mode` is that of a pod with a user namespace, or of a container in it. Raises InvalidArgument.
    """
    if mode in (pb.POD, pb.NODE):
        raise InvalidArgument(
            f"runtime handler {handler!r} cannot share a PID namespace in a pod with a user namespace",
            hint="give each container one of its own (CONTAINER)",
            field="namespace_options.pid",
        )


def _map(mappings: Any, field: str) -> tuple[IdMap, ...]:
    if len(mappings) != 1:
        raise InvalidArgument(f"userns_options.{field}: one mapping is needed, not {len(mappings)}", field=field)
    mapping = mappings[0]
    if mapping.container_id != 0:
        raise InvalidArgument(f"userns_options.{field}: container ID 0 is not mapped", field=field)
    if mapping.length < 1 or mapping.host_id + mapping.length > 1 << 32:
        raise InvalidArgument(
            f"userns_options.{field}: the range of {mapping.length} IDs is out of bounds", field=field
        )
    return (IdMap(mapping.container_id, mapping.host_id, mapping.length),)


def user_maps_message(users: Iterable[IdMap], groups_map: Iterable[IdMap]) -> pb.UserNamespace:
    """The maps, outward."""
    return pb.UserNamespace(
        mode=pb.POD, uids=[_map_message(each) for each in users], gids=[_map_message(each) for each in groups_map]
    )


def _map_message(value: IdMap) -> pb.IDMapping:
    return pb.IDMapping(container_id=value.container, host_id=value.host, length=value.length)


# --- profiles ---------------------------------------------------------------------------------------------------------


def seccomp(security: Any) -> str:
    """`default`, `unconfined` or a profile's JSON. No profile at all is unconfined, and so is a privileged one. Reads a file."""
    if security.privileged:
        return "unconfined"
    if security.HasField("seccomp"):
        profile = security.seccomp
        match profile.profile_type:
            case pb.SecurityProfile.RuntimeDefault:
                return "default"
            case pb.SecurityProfile.Unconfined:
                return "unconfined"
        return _read_profile(profile.localhost_ref)
    match security.seccomp_profile_path:
        case "" | "unconfined":
            return "unconfined"
        case "runtime/default" | "docker/default":
            return "default"
    return _read_profile(security.seccomp_profile_path)


def _read_profile(reference: str) -> str:
    """A file of the node's. Never waits for one that is not a file, and never reads more than a profile may be."""
    path = reference.removeprefix("localhost/")
    if not path.startswith("/"):
        raise InvalidArgument(f"seccomp profile {reference!r} is not an absolute path", field="seccomp")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidArgument(f"seccomp profile {path} is not a file", field="seccomp")
            return file.read(MAX_PROFILE + 1).decode()
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise InvalidArgument(f"cannot read seccomp profile {path}: {reason}", field="seccomp", path=path) from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"seccomp profile {path} is not UTF-8", field="seccomp", path=path) from error


def apparmor(security: Any) -> str:
    """Empty when nothing is asked for, `default`, `unconfined`, or the name of a loaded profile."""
    if security.HasField("apparmor"):
        profile = security.apparmor
        match profile.profile_type:
            case pb.SecurityProfile.RuntimeDefault:
                return "default"
            case pb.SecurityProfile.Unconfined:
                return "unconfined"
        return str(profile.localhost_ref).removeprefix("localhost/")
    old = str(getattr(security, "apparmor_profile", ""))
    return "default" if old == "runtime/default" else old.removeprefix("localhost/")


def selinux(options: pb.SELinuxOption) -> str:
    """`user:role:type:level`; empty when nothing is set."""
    parts = (options.user, options.role, options.type, options.level)
    return ":".join(parts) if any(parts) else ""
