"""The overlay driver: layers are directories that the kernel's overlay file system stacks, so that containers share them unchanged.

    ROOT/overlay/layers/<hex>/{diff/, layer.json}      ROOT/overlay/containers/<id>/{upper/, work/, container.json}
    ROOT/overlay/mountpoints/                          below all layers of every container

A layer holds its whiteouts in the kernel's own form, and needs nothing of its parent to be unpacked. What it does need of its parents is
made up for when a container first uses it: directories that a layer has things in, but no entry for, get the attributes they have below.

What a container is mounted with is settled when it is made, in its `container.json`: files copied up under one set of options are not
read right under another.

`mountpoints` has MOUNT_POINTS. An image that lacks one would have it made in the upper directory when its container starts, with a copy
of the directory that it is in.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from moorage.server.cancel import CancelToken
from moorage.server.errors import AlreadyExists, DataLoss, FailedPrecondition, Internal, InvalidArgument, NotFound
from moorage.server.graph.drivers import backing, projectquotas
from moorage.server.graph.drivers.backing import OPAQUE_XATTRS
from moorage.server.graph.drivers.base import (
    MOUNT_POINTS,
    UNLIMITED,
    Confined,
    Differences,
    DriverStatus,
    Footprint,
    Packed,
    RootfsMount,
    Sink,
    Snapshot,
    Whiteouts,
    WritableLayer,
)
from moorage.server.graph.drivers.storage import Storage, no_quota
from moorage.server.graph.overlayoptions import DEFAULTS, OverlayOptions
from moorage.server.model import DiskUsage

PLAIN = ("index=off", "metacopy=off", "redirect_dir=off")
"""Set whatever the kernel's defaults: the upper directory must stay a plain record of what changed."""
USERXATTR = ("userxattr", "index=off", "metacopy=off")
"""The same where marks are in `user.*` attributes: overlay follows no redirects then, and does not want to hear of them."""
METACOPY = ("index=off", "metacopy=on", "redirect_dir=on")

PROJECT_QUOTAS = "project quotas"
QUOTA_HINT = (
    "put the root on xfs, or on ext4 with features project and quota, mounted with option prjquota; or on btrfs with quotas, for graph "
    "driver btrfs"
)

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_VOLATILE_MARK = Path("work") / "work" / "incompat" / "volatile"
"""The kernel makes this directory when it mounts with `volatile`, and refuses to mount where it is: after a crash nobody can tell what
is missing."""


class ContainerRecord(msgspec.Struct, frozen=True):
    """container.json. `parent` is the chain below, `volatile` the boot of the host in which the container was made, empty for one that
    is synced."""

    parent: str
    volatile: str = ""
    metacopy: bool = False


class LayerRecord(msgspec.Struct, frozen=True):
    """layer.json. `implicit`: directories whose attributes are still to be taken from the layers below, "" for the root."""

    parent: str
    size: int
    implicit: tuple[str, ...] = ()


class OverlayDriver:
    """See the module's text and `base.GraphDriver`."""

    name = "overlay"
    independent_layers = True

    def __init__(
        self,
        root: Path,
        confined: Confined,
        options: OverlayOptions = DEFAULTS,
        features: backing.OverlayFeatures | None = None,
    ) -> None:
        """`features` are what works in `root`, where that is known already. Raises FailedPrecondition for options that do not."""
        if set(str(root)) & set(":,\\"):
            raise InvalidArgument(
                f"overlay cannot work in {root}: its path has a colon, comma or backslash in it", path=root
            )
        self._storage = Storage(root / "overlay", confined, projectquotas.forget)
        self._confined = confined
        self._options = options
        self._features = features or backing.overlay_features(root)
        self._xattrs = self._choose_xattrs()
        self._check_options(root)
        self._opaque = OPAQUE_XATTRS[self._xattrs]
        self._plain: tuple[str, ...] = PLAIN if self._xattrs == "trusted" else USERXATTR
        self._whiteouts: Whiteouts = "overlay" if self._xattrs == "trusted" else "overlay userxattr"
        self._empty = self._storage.root / "empty"
        self._empty.mkdir(mode=0o755, exist_ok=True)
        self._mount_points = _make_mount_points(self._storage.root / "mountpoints")
        self._records: dict[str, LayerRecord] = {}
        self._settling = threading.Lock()

    def _check_options(self, root: Path) -> None:
        wanted = {
            "volatile": self._options.volatile == "always" and not self._features.volatile,
            "metacopy": self._options.metacopy and not (self._features.metacopy and self._xattrs == "trusted"),
            f"xattrs {self._xattrs}": self._xattrs not in self._features.xattrs,
        }
        for name in (name for name, missing in wanted.items() if missing):
            raise FailedPrecondition(
                f"[overlay] {name} does not work in {root}", hint="leave it out of the configuration", path=root
            )

    def _choose_xattrs(self) -> str:
        """The attributes for overlay's marks: those that the layers here have their marks in already, if there are any."""
        record = self._storage.root / "xattrs"
        if os.listdir(self._storage.layers):
            used = record.read_text() if record.exists() else "trusted"
            if self._options.xattrs not in ("auto", used):
                raise FailedPrecondition(
                    f"[overlay] xattrs cannot be {self._options.xattrs}: the layers in {self._storage.root} have their marks in {used} "
                    "attributes",
                    hint="remove all images first, or give the daemon another root",
                    path=self._storage.root,
                )
            return used
        chosen = self._features.xattrs[0] if self._options.xattrs == "auto" else self._options.xattrs
        record.write_text(chosen)
        return chosen

    def apply(self, chain_id: str, parent: str, tar: BinaryIO, cancel: CancelToken) -> int:
        final = self._storage.layer(chain_id)
        if final.is_dir():
            return self._record(chain_id).size
        if parent:
            self._storage.layer(parent)
        with self._storage.staged(final) as path:
            diff = path / "diff"
            diff.mkdir(mode=0o755)
            # Below the base there is nothing to hide.
            unpacked = self._confined.unpack(str(diff), tar, self._whiteouts if parent else "apply", cancel)
            record = LayerRecord(parent, unpacked.size, unpacked.implicit if parent else ())
            (path / "layer.json").write_bytes(msgspec.json.encode(record))
        return record.size

    def differences(self, chain_id: str, tar: BinaryIO, cancel: CancelToken) -> Differences:
        if not self._storage.layer(chain_id).is_dir():
            raise NotFound(f"layer {chain_id} is not here", path=self._storage.layer(chain_id))
        parent = self._record(chain_id).parent
        with self._storage.draft() as path:
            path.chmod(0o755)
            unpacked = self._confined.unpack(str(path), tar, self._whiteouts if parent else "apply", cancel)
            implicit = unpacked.implicit if parent else ()
            return self._confined.compare(str(self._diff(chain_id)), str(path), implicit, cancel)

    def remove_layer(self, chain_id: str) -> None:
        self._storage.discard(self._storage.layer(chain_id))
        self._records.pop(chain_id, None)

    def layers(self) -> set[str]:
        return {f"sha256:{name}" for name in os.listdir(self._storage.layers)}

    def create(self, container_id: str, parent: str, layer: WritableLayer = UNLIMITED) -> None:
        final = self._storage.container(container_id)
        if final.exists():
            raise AlreadyExists(f"container {container_id} has a writable layer already", path=final)
        obstacle = projectquotas.obstacle(self._storage.root) if layer.size else ""
        if obstacle:
            raise no_quota(container_id, obstacle, QUOTA_HINT, path=final)
        chain = self._chain(parent)
        self._settle(chain)
        with self._storage.staged(final) as path:
            if layer.size:
                # Before anything is made in it: that inherits the project.
                self._limit(container_id, path, layer.size)
            upper = path / "upper"
            upper.mkdir()
            (path / "work").mkdir(mode=0o700)
            record = ContainerRecord(parent, _boot() if self._is_volatile(layer) else "", self._options.metacopy)
            (path / "container.json").write_bytes(msgspec.json.encode(record))
            # The root directory of an overlay has the attributes of its upper one.
            self._confined_attributes(self._diff(chain[0]) if chain else self._empty, upper)

    def _is_volatile(self, layer: WritableLayer) -> bool:
        if self._options.volatile == "auto":
            return layer.disposable and self._features.volatile
        return self._options.volatile == "always"

    def _limit(self, container_id: str, path: Path, size: int) -> None:
        try:
            projectquotas.limit(path, size)
        except OSError as error:
            number = error.errno or 0
            message = f"cannot limit the size of container {container_id}: {os.strerror(number).lower()}"
            raise Internal(message, path=path, errno=number) from error

    def _confined_attributes(self, source: Path, target: Path) -> None:
        status = source.stat()
        os.chown(target, status.st_uid, status.st_gid)
        target.chmod(status.st_mode & 0o7777)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def rootfs(self, container_id: str) -> tuple[RootfsMount, ...]:
        path = self._container(container_id)
        record = _container_record(path)
        options = (
            f"lowerdir={':'.join([*self._lower(record.parent), str(self._mount_points)])}",
            f"upperdir={path / 'upper'}",
            f"workdir={path / 'work'}",
            *self._mount_options(container_id, path, record),
        )
        return (RootfsMount("overlay", "overlay", options),)

    def export(self, container_id: str, sink: Sink, cancel: CancelToken) -> Packed:
        # The upper directory as one more lower one: it may be in use by another mount.
        path = self._container(container_id)
        record = _container_record(path)
        dirs = ":".join([str(path / "upper"), *(self._lower(record.parent) or [str(self._empty)])])
        options = METACOPY if record.metacopy else self._plain
        mount = RootfsMount("overlay", "overlay", (f"lowerdir={dirs}", "ro", *options))
        return self._confined.export((mount,), sink, cancel)

    def _mount_options(self, container_id: str, path: Path, record: ContainerRecord) -> tuple[str, ...]:
        options = METACOPY if record.metacopy else self._plain
        if not record.volatile:
            return options
        mark = path / _VOLATILE_MARK
        if mark.exists():
            if record.volatile != _boot():
                raise DataLoss(
                    f"container {container_id} cannot be started again: the host has been down since it ran, and its files were not "
                    "synced to the disk",
                    hint='remove it; [overlay] volatile = "never" keeps such containers',
                    path=path,
                )
            shutil.rmtree(mark)
        return (*options, "volatile")

    def view(self, chain_id: str) -> tuple[RootfsMount, ...]:
        self._settle(self._chain(chain_id))
        lower = self._lower(chain_id) or [str(self._empty)]
        if len(lower) == 1:
            return (RootfsMount("bind", lower[0], ("bind", "ro")),)
        return (RootfsMount("overlay", "overlay", (f"lowerdir={':'.join(lower)}", "ro", *self._plain)),)

    @contextmanager
    def snapshot(self, container_id: str, cancel: CancelToken, *, move: bool = False) -> Iterator[Snapshot]:
        container = self._container(container_id)
        parent = _container_record(container).parent
        with self._storage.draft() as path:
            diff = path / "diff"
            if move:
                (container / "upper").rename(diff)
            else:
                diff.mkdir(mode=0o755)
                self._confined.copy_tree(str(container / "upper"), str(diff), cancel)
            yield OverlaySnapshot(
                self._storage, self._confined, path, parent, self._diff(parent) if parent else self._empty
            )

    @contextmanager
    def layer_snapshot(self, chain_id: str, cancel: CancelToken) -> Iterator[Snapshot]:
        self._settle(self._chain(chain_id))
        parent = self._record(chain_id).parent
        with self._storage.draft() as path:
            (path / "diff").mkdir(mode=0o755)
            self._confined.copy_tree(str(self._diff(chain_id)), str(path / "diff"), cancel)
            below = self._diff(parent) if parent else self._empty
            yield OverlaySnapshot(self._storage, self._confined, path, parent, below)

    def remove(self, container_id: str) -> None:
        self._storage.discard(self._storage.container(container_id))

    def containers(self) -> set[str]:
        return set(os.listdir(self._storage.containers))

    def usages(self, container_ids: Sequence[str]) -> dict[str, DiskUsage]:
        places = {each: str(self._storage.container(each) / "upper") for each in container_ids}
        found = self._confined.measure_trees([*places.values()])
        return {each: found[place] for each, place in places.items() if place in found}

    def footprint(self) -> Footprint:
        return self._storage.footprint()

    def status(self) -> DriverStatus:
        volatile = f"volatile={self._options.volatile}" if self._features.volatile else "volatile=never"
        mounted = METACOPY if self._options.metacopy else self._plain
        obstacle = projectquotas.obstacle(self._storage.root)
        quota = "" if obstacle else PROJECT_QUOTAS
        options = (f"xattrs={self._xattrs}", volatile, *mounted)
        return DriverStatus(backing.kind(self._storage.root), options, quota, obstacle)

    def collect(self) -> int:
        return self._storage.collect()

    def close(self) -> None:
        self._storage.close()

    def _container(self, container_id: str) -> Path:
        path = self._storage.container(container_id)
        if not path.is_dir():
            raise NotFound(f"container {container_id} has no writable layer", path=path)
        return path

    def _diff(self, chain_id: str) -> Path:
        return self._storage.layer(chain_id) / "diff"

    def _record(self, chain_id: str) -> LayerRecord:
        record = self._records.get(chain_id)
        if record is None:
            path = self._storage.layer(chain_id) / "layer.json"
            try:
                record = msgspec.json.decode(path.read_bytes(), type=LayerRecord)
            except FileNotFoundError:
                raise NotFound(f"layer {chain_id} is not here", path=path) from None
            except msgspec.DecodeError as error:
                raise DataLoss(f"cannot read {path}: {error}", path=path) from error
            self._records[chain_id] = record
        return record

    def _chain(self, top: str) -> list[str]:
        """The layers from the top down."""
        chain = []
        while top:
            chain.append(top)
            top = self._record(top).parent
        return chain

    def _lower(self, top: str) -> list[str]:
        """The directories of the layers that are visible."""
        return [str(self._diff(chain_id)) for chain_id in self._visible(top)]

    def _visible(self, top: str) -> list[str]:
        """The layers from the top down to the first whose root hides all below: the kernel does not look for that mark on a root."""
        chain = self._chain(top)
        for depth, chain_id in enumerate(chain):
            if self._opaque in os.listxattr(self._diff(chain_id)):
                return chain[: depth + 1]
        return chain

    def _settle(self, chain: list[str]) -> None:
        """Give implicit directories their attributes, from the base up, once for each layer."""
        if not any(self._record(chain_id).implicit for chain_id in chain):
            return
        with self._settling:
            for depth in range(len(chain) - 1, -1, -1):
                self._settle_layer(chain[depth], chain[depth + 1 :])

    def _settle_layer(self, chain_id: str, below: list[str]) -> None:
        record = self._record(chain_id)
        missing = record.implicit
        for lower in below:
            if not missing:
                break
            missing = self._confined.inherit(str(self._diff(chain_id)), str(self._diff(lower)), missing)
        if record.implicit:
            settled = msgspec.structs.replace(record, implicit=())
            path = self._storage.layer(chain_id) / "layer.json"
            draft = path.with_suffix(".new")
            draft.write_bytes(msgspec.json.encode(settled))
            draft.rename(path)
            self._records[chain_id] = settled


def _boot() -> str:
    """The ID of this boot of the host."""
    return _BOOT.read_text().strip()


def _make_mount_points(directory: Path) -> Path:
    directory.mkdir(0o755, exist_ok=True)
    for name in MOUNT_POINTS:
        place = directory / name
        if name.endswith("/"):
            place.mkdir(0o755, exist_ok=True)
        else:
            place.touch(0o644)
    return directory


def _container_record(path: Path) -> ContainerRecord:
    file = path / "container.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=ContainerRecord)
    except OSError as error:
        raise DataLoss(f"cannot read {file}: {error.strerror}", path=file) from error
    except msgspec.DecodeError as error:
        raise DataLoss(f"cannot read {file}: {error}", path=file) from error


class OverlaySnapshot:
    """A copy of an upper directory, on its way to become a layer."""

    def __init__(self, storage: Storage, confined: Confined, path: Path, parent: str, below: Path) -> None:
        self.parent = parent
        self._storage, self._confined, self._path, self._below = storage, confined, path, below

    def pack(self, sink: Sink, cancel: CancelToken, *, clamp_seconds: int | None = None) -> Packed:
        packed = self._confined.pack(
            str(self._path / "diff"), sink, "overlay", cancel, root=str(self._below), clamp_seconds=clamp_seconds
        )
        implicit = () if packed.root or not self.parent else ("",)
        record = LayerRecord(self.parent, packed.size, implicit)
        (self._path / "layer.json").write_bytes(msgspec.json.encode(record))
        return packed

    def commit(self, chain_id: str) -> None:
        final = self._storage.layer(chain_id)
        if not final.is_dir():
            self._path.rename(final)
