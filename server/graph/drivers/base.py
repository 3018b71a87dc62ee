"""The interface of a graph driver: where layers lie, and how a container gets its root file system from them.

Vocabulary, with one life: `apply` unpacks a layer's tar stream on top of `parent` and commits it under its chain ID, all or nothing;
`create` makes a container's writable layer on top of a chain; `rootfs` says, as data, which mounts make its root file system (the
container's init performs them in its own mount namespace: the host's mount table does not grow); `remove` and `remove_layer` delete.

    driver.apply(base, "", tar)            # committed layer, read-only from now on
    driver.apply(top, base, tar2)
    driver.create("c1", top)               # writable layer, of any size
    driver.rootfs("c1")                    # -> (RootfsMount("overlay", "overlay", ("lowerdir=…", …)),)
    driver.remove("c1"); driver.remove_layer(top); driver.remove_layer(base)

Every driver passes `tests/contract/test_graphdriver.py`; `docs/graphdrivers.md` tells what one has to keep to.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

from moorage.server.cancel import CancelToken
from moorage.server.model import DiskUsage

Whiteouts = Literal["overlay", "overlay userxattr", "apply"]
"""How an unpacker treats `.wh.` entries: make overlay's own marks (the second for overlays that keep them in `user.*` attributes), or
delete what they hide in the directory itself."""


MOUNT_POINTS = ("dev/", "etc/", "etc/hostname", "etc/hosts", "etc/resolv.conf", "proc/", "sys/")
"""Directories (ending in "/") and files that something is mounted over in every container. A root file system may have them, empty, where
its image does not."""


@dataclass(frozen=True)
class RootfsMount:
    """One mount(2) that makes a root file system, in the shape of OCI's `mounts` entries. `options` as in fstab(5)."""

    type: str
    source: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unpacked:
    """What came of a layer: the bytes of file content, and (whiteouts "overlay") the directories that something lies in but that have no
    entry of their own, "" for the root: their attributes are those of the layer below."""

    size: int
    implicit: tuple[str, ...] = ()


@dataclass(frozen=True)
class Differences:
    """How many entries of a tree are not as they should be, and of the first of them path and fault."""

    count: int = 0
    shown: tuple[tuple[str, str], ...] = ()


Form = Literal["overlay", "compare", "plain"]
"""How a tree is packed: an upper directory with the kernel's marks, a tree beside the one below it, or a tree as it is."""


@dataclass(frozen=True)
class Packed:
    """What was packed: the bytes of file content, how many entries, and whether the root directory had one."""

    size: int
    entries: int
    root: bool


class Sink(Protocol):
    """Where a tar stream goes."""

    def write(self, data: bytes) -> object:
        """Take the next bytes."""
        ...


@dataclass(frozen=True)
class WritableLayer:
    """What a container's writable layer is to be.

    `size` is the most that the container may write, in bytes, 0 for no limit. `disposable`: it need not outlive a crash of the host.
    """

    size: int = 0
    disposable: bool = False


UNLIMITED = WritableLayer()


@dataclass(frozen=True)
class DriverStatus:
    """How a driver works where it works: the file system below it, what it uses of the kernel, and the means by which it limits the size
    of containers, or (`quota` empty) why it cannot."""

    backing: str
    options: tuple[str, ...] = ()
    quota: str = ""
    no_quota: str = ""


class Confined(Protocol):
    """Work on untrusted trees, done in a child process that is chrooted into the directory it works on."""

    def unpack(self, directory: str, tar: BinaryIO, whiteouts: Whiteouts, cancel: CancelToken) -> Unpacked:
        """Unpack an uncompressed tar stream into `directory`, reading the stream to its end."""
        ...

    def pack(
        self,
        directory: str,
        sink: Sink,
        form: Form,
        cancel: CancelToken,
        *,
        lower: str = "",
        root: str = "",
        clamp_seconds: int | None = None,
    ) -> Packed:
        """Pack `directory` as an uncompressed tar stream into `sink`.

        `lower` is the tree to compare with; `root` the root directory below, which the one of `directory` has no entry for where it is
        like it ("": there is always one); no entry is younger than `clamp_seconds` since the epoch. But for "plain" the tree becomes
        what the stream says of it.
        """
        ...

    def export(self, mounts: Sequence[RootfsMount], sink: Sink, cancel: CancelToken) -> Packed:
        """What the mounts show, as an uncompressed tar stream; they are made in a mount namespace of the child's own."""
        ...

    def inherit(self, directory: str, lower: str, paths: Sequence[str]) -> tuple[str, ...]:
        """Give the directories `paths` below `directory` the attributes they have below `lower`; answer those that `lower` lacks."""
        ...

    def copy_tree(self, source: str, target: str, cancel: CancelToken) -> None:
        """Copy everything below `source` into `target`: owners, modes, times, xattrs, hard links, devices, holes."""
        ...

    def compare(self, actual: str, expected: str, implicit: Sequence[str], cancel: CancelToken) -> Differences:
        """What is different in the tree `actual`, but for the attributes of the directories `implicit`."""
        ...

    def remove_tree(self, directory: str) -> None:
        """Delete `directory` and all below it; missing is fine."""
        ...

    def measure_tree(self, directory: str) -> DiskUsage:
        """What `directory` takes with all that is below it, which may change meanwhile."""
        ...

    def measure_trees(self, directories: Sequence[str]) -> dict[str, DiskUsage]:
        """The same of several, by directory, for less; those that are gone are left out."""
        ...


@dataclass(frozen=True)
class Footprint:
    """What a driver's trees take on the disk, in bytes: by chain ID, by container ID, and all else that is its own."""

    layers: dict[str, int]
    containers: dict[str, int]
    other: int


class Snapshot(Protocol):
    """What a container has changed, held still: it can be packed, and then be made a layer without being unpacked again."""

    parent: str
    """The chain ID below, empty at the base."""

    def pack(self, sink: Sink, cancel: CancelToken, *, clamp_seconds: int | None = None) -> Packed:
        """The changes as an uncompressed tar stream (OCI image spec, layer.md). Once only.

        Raises FailedPrecondition for a change that a layer cannot hold.
        """
        ...

    def commit(self, chain_id: str) -> None:
        """Make what was packed the layer `chain_id`, on top of `parent`; one that is there already is a no-op."""
        ...


class GraphDriver(Protocol):
    """Stores layers and gives root file systems. Thread-safe for different IDs; the caller serialises work on one ID."""

    name: str
    independent_layers: bool
    """Whether a layer can be applied before its parent is (overlay), so that layers unpack in parallel and in any order."""

    def apply(self, chain_id: str, parent: str, tar: BinaryIO, cancel: CancelToken) -> int:
        """Unpack a layer and commit it; answer its size in bytes. `parent` is a chain ID or empty. A committed chain ID is a no-op."""
        ...

    def differences(self, chain_id: str, tar: BinaryIO, cancel: CancelToken) -> Differences:
        """What of a committed layer is not as its tar says, which is unpacked once more for that. Raises NotFound."""
        ...

    def remove_layer(self, chain_id: str) -> None:
        """Delete a committed layer; missing is fine."""
        ...

    def layers(self) -> set[str]:
        """Chain IDs of the committed layers on disk."""
        ...

    def create(self, container_id: str, parent: str, layer: WritableLayer = UNLIMITED) -> None:
        """Make a container's writable layer on top of the chain `parent`, whose layers are all committed.

        Raises FailedPrecondition, reason NO_QUOTA, for a size that cannot be held.
        """
        ...

    def rootfs(self, container_id: str) -> tuple[RootfsMount, ...]:
        """The mounts that make the container's root file system, bottom first. It may have MOUNT_POINTS that its image lacks."""
        ...

    def view(self, chain_id: str) -> tuple[RootfsMount, ...]:
        """The mounts that show the chain `chain_id`, whose layers are all committed, as it is; nothing may be written there."""
        ...

    def export(self, container_id: str, sink: Sink, cancel: CancelToken) -> Packed:
        """A container's root file system, whole, as an uncompressed tar stream. It may run meanwhile: what changes then may be there in
        part."""
        ...

    def layer_snapshot(self, chain_id: str, cancel: CancelToken) -> AbstractContextManager[Snapshot]:
        """A copy of a layer, to be packed again; nothing is left of it after the block. Raises NotFound."""
        ...

    def snapshot(
        self, container_id: str, cancel: CancelToken, *, move: bool = False
    ) -> AbstractContextManager[Snapshot]:
        """Hold the container's changes still inside the block; nothing is left of that afterwards but the layer that was committed.

        With `move` they are taken from the container instead of copied: it is of no more use then, and only `remove` may follow.
        """
        ...

    def remove(self, container_id: str) -> None:
        """Delete a container's writable layer; missing is fine."""
        ...

    def containers(self) -> set[str]:
        """Container IDs that have a writable layer on disk."""
        ...

    def usages(self, container_ids: Sequence[str]) -> dict[str, DiskUsage]:
        """What containers' writable layers take, by ID; those that are gone are left out."""
        ...

    def footprint(self) -> Footprint:
        """What everything takes, as du(1) counts it."""
        ...

    def status(self) -> DriverStatus:
        """How the driver works here."""
        ...

    def collect(self) -> int:
        """Delete what an interrupted operation left half done; answer how many things that were."""
        ...

    def close(self) -> None:
        """Wait until what was removed is off the disk."""
        ...
