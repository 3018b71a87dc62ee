"""CRI's mounts to the engine's and back."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api.cri import common
from moorage.server.errors import FailedPrecondition, InvalidArgument, Unimplemented
from moorage.server.model import IdMap, Mount

_PROPAGATIONS = {
    pb.PROPAGATION_PRIVATE: "rprivate",
    pb.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    pb.PROPAGATION_BIDIRECTIONAL: "rshared",
}
_PROPAGATION_MESSAGES = {name: number for number, name in _PROPAGATIONS.items()}
MOUNTINFO = "/proc/self/mountinfo"


def mount(message: pb.Mount) -> Mount:
    """A mount. A host path that is missing is made, as a directory. Raises InvalidArgument, FailedPrecondition."""
    if not message.container_path.startswith("/"):
        raise InvalidArgument(
            f"container_path {message.container_path!r} is not absolute", field="mounts.container_path"
        )
    if message.mount_options:
        raise Unimplemented("mount_options are not offered", field="mounts.mount_options")
    return _image(message) if message.HasField("image") and message.image.image else _bind(message)


def _image(message: pb.Mount) -> Mount:
    if message.host_path:
        raise InvalidArgument("a mount is of a host path or of an image, not of both", field="mounts.image")
    if not message.readonly:
        raise InvalidArgument(f"image volume at {message.container_path} must be readonly", field="mounts.readonly")
    sub_path = message.image_sub_path
    if sub_path.startswith("/") or ".." in sub_path.split("/") or "\0" in sub_path:
        raise InvalidArgument(f"image_sub_path {sub_path!r} leaves the image", field="mounts.image_sub_path")
    return Mount("image", message.container_path, message.image.image, read_only=True, sub_path=sub_path)


def _bind(message: pb.Mount) -> Mount:
    source = message.host_path
    if not source.startswith("/") or "\0" in source:
        raise InvalidArgument(f"host_path {source!r} is not an absolute path", field="mounts.host_path")
    if message.image_sub_path:
        raise InvalidArgument("image_sub_path is for images", field="mounts.image_sub_path")
    if message.recursive_read_only and not message.readonly:
        raise InvalidArgument("recursive_read_only needs readonly", field="mounts.recursive_read_only")
    if message.recursive_read_only and message.propagation != pb.PROPAGATION_PRIVATE:
        raise InvalidArgument("recursive_read_only needs PROPAGATION_PRIVATE", field="mounts.propagation")
    if bool(message.uidMappings) != bool(message.gidMappings):
        raise InvalidArgument("mappings of a mount are of users and of groups", field="mounts.uidMappings")
    users, groups = _id_map(message.uidMappings), _id_map(message.gidMappings)
    if users != groups:
        raise Unimplemented("a mount's mappings of users and groups must be the same", field="mounts.gidMappings")
    return Mount(
        "bind",
        message.container_path,
        _host_path(source, message.propagation),
        read_only=message.readonly,
        propagation=_PROPAGATIONS.get(message.propagation, "rprivate"),
        recursive_read_only=message.recursive_read_only,
        id_map=users,
    )


def _id_map(mappings: Iterable[pb.IDMapping]) -> tuple[IdMap, ...]:
    return tuple(IdMap(each.container_id, each.host_id, each.length) for each in mappings)


def _host_path(source: str, propagation: int) -> str:
    """The path itself, which links in it lead from: what is there when the container starts counts."""
    resolved = os.path.realpath(source)
    if not os.path.exists(resolved):
        try:
            Path(resolved).mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise FailedPrecondition(f"cannot make host path {source}: {reason}", path=source) from error
    if propagation != pb.PROPAGATION_PRIVATE:
        _check_peers(source, resolved, propagation)
    return source


def _check_peers(source: str, resolved: str, propagation: int) -> None:
    """The kernel makes a peer group where there is none, and then nothing would ever propagate. mount_namespaces(7)."""
    options = _optional_fields(resolved)
    if propagation == pb.PROPAGATION_BIDIRECTIONAL and "shared" not in options:
        raise FailedPrecondition(
            f"{source} is not on a shared mount, which bidirectional propagation needs", path=source
        )
    if not options & {"shared", "master"}:
        raise FailedPrecondition(f"{source} is on neither a shared nor a slave mount", path=source)


def _optional_fields(path: str) -> set[str]:
    """Those of the mount that a path is on: `shared`, `master`. proc_pid_mountinfo(5)."""
    best, found = "", set[str]()
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, _ = line.partition(" - ")
            words = before.split(" ")
            point = _unescaped(words[4])
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, found = point, {word.partition(":")[0] for word in words[6:]}
    return found


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def mount_message(value: Mount, image_id: str) -> pb.Mount:
    """A mount as CRI asked for it; `image_id` for those of images."""
    message = pb.Mount(
        container_path=value.target,
        host_path=value.source if value.kind == "bind" else "",
        readonly=value.read_only,
        propagation=_PROPAGATION_MESSAGES.get(value.propagation, pb.PROPAGATION_PRIVATE),
        recursive_read_only=value.recursive_read_only,
        image_sub_path=value.sub_path,
    )
    if value.kind == "image":
        message.image.CopyFrom(pb.ImageSpec(image=value.source, image_ref=image_id))
    if value.id_map:
        maps = common.user_maps_message(value.id_map, value.id_map)
        message.uidMappings.extend(maps.uids)
        message.gidMappings.extend(maps.gids)
    return message
