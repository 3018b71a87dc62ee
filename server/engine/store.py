"""Handlers for what is made of images and containers here: commits, tags, history."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

from moorage.server.engine import imagechanges, imagefilter, storecommands
from moorage.server.engine.containers import Containers
from moorage.server.engine.images import Images
from moorage.server.engine.job import Job
from moorage.server.errors import FailedPrecondition, InvalidArgument
from moorage.server.graph import documents, history
from moorage.server.graph.compression import MEDIA_TYPES, Compression
from moorage.server.graph.graph import Graph
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.model import Container, Image


class Store:
    """Handlers for commits, tags and history."""

    def __init__(
        self,
        graph: Graph,
        images: Images,
        containers: Containers,
        cgroups: CgroupManager,
        cgroup_path: Callable[[str], str],
    ) -> None:
        self._graph = graph
        self._images = images
        self._containers = containers
        self._cgroups = cgroups
        self._cgroup_path = cgroup_path

    def commit(self, job: Job, command: storecommands.Commit) -> Image:
        """An image of a container's changes on top of its image."""
        compression = _compression(command.compression)
        tags = (self._images.tag_of(command.reference),) if command.reference else ()
        container = self._containers.get(command.container)
        if container.state == "removing":
            raise FailedPrecondition(f"container {container.name} is being removed", state=container.state)
        base = self._graph.get(container.image_id)
        document = documents.decode(self._graph.document(base.id))
        _take_over(document, container)
        imagechanges.apply(document["config"], command.changes)
        with self._graph.lease():
            job.stage("pack")
            still = self._frozen(container) if command.pause and container.state == "running" else nullcontext()
            made = self._graph.commit_layer(container.id, job.cancel, compression=compression, still=still)
            job.stage("commit")
            _add_step(document, container, made.layer.diff_id, command)
            blobs = (*self._graph.blobs(base), made.blob)
            return self._graph.make_image(documents.encode(document), blobs, tags=tags)

    def frozen(self, container: Container) -> AbstractContextManager[None]:
        """Hold a running container's processes still inside the block."""
        return self._frozen(container)

    @contextmanager
    def _frozen(self, container: Container) -> Iterator[None]:
        cgroup = self._cgroups.cgroup(self._cgroup_path(container.id))
        cgroup.freeze()
        try:
            yield
        finally:
            cgroup.thaw()

    def tag(self, job: Job, command: storecommands.Tag) -> Image:
        """One more name for an image; an image that had it loses it."""
        target = self._images.tag_of(command.target)
        return self._graph.tag(self._images.get(command.source).id, target)

    def history(self, job: Job, command: storecommands.History) -> list[storecommands.HistoryEntry]:
        """The steps of an image, the last first."""
        image = self._images.get(command.reference)
        return [
            storecommands.HistoryEntry(
                step.created_ns,
                step.created_by,
                step.author,
                step.comment,
                step.layer.diff_id if step.layer else "",
                step.layer.size if step.layer else 0,
            )
            for step in reversed(history.read(self._graph.document(image.id), image.layers))
        ]

    def prune(self, job: Job, command: storecommands.PruneImages) -> storecommands.Pruned:
        """Delete the images that nobody needs, and what nothing reaches."""

        def unwanted(image: Image) -> bool:
            young = command.until_ns and image.created_ns >= command.until_ns
            return not young and (command.all or not image.tags) and imagefilter.has_labels(image, command.labels)

        removed = self._graph.prune(self._containers.using, unwanted)
        return storecommands.Pruned(removed.untagged, removed.deleted, removed.reclaimed)

    def measure(self, job: Job, command: storecommands.Measure) -> storecommands.DiskReport:
        """What everything takes on the disk."""
        usage = self._graph.usage({each.id: each.state == "running" for each in self._containers.all()})
        images = self._graph.list()
        used = [image for image in images if self._containers.using(image.id)]
        held = {id for image in used for id in self._graph.held_by(image)}
        loose = sum(item.size for item in (*usage.layers, *usage.blobs) if item.id not in held)
        return storecommands.DiskReport(usage, len(images), len(used), loose)

    def viz(self, job: Job, command: storecommands.Viz) -> str:
        """The GraphDB in the dot language."""
        return self._graph.viz()


def _compression(name: str) -> Compression:
    for known in MEDIA_TYPES:
        if name == known:
            return known
    raise InvalidArgument(f"no compression {name!r}: there are {', '.join(MEDIA_TYPES)}", field="compression")


def _take_over(document: dict[str, Any], container: Container) -> None:
    """Lay a container's own settings over its image's config (see `lifecycle.py` for how they were merged)."""
    asked, config = container.config, dict(document.get("config") or {})
    if asked.entrypoint:
        config["Entrypoint"], config["Cmd"] = list(asked.entrypoint), list(asked.command)
    elif asked.command:
        config["Cmd"] = list(asked.command)
    config["Env"] = list(container.env)
    config["User"], config["WorkingDir"] = container.user, container.cwd
    if asked.stop_signal:
        config["StopSignal"] = asked.stop_signal
    if asked.labels:
        config["Labels"] = {**(config.get("Labels") or {}), **asked.labels}
    ports: dict[str, Any] = {f"{port.container_port}/{port.protocol}": {} for port in asked.network.ports}
    if ports:
        config["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **ports}
    document["config"] = config


def _add_step(document: dict[str, Any], container: Container, diff_id: str, command: storecommands.Commit) -> None:
    """One more layer, and the step of the history that it is."""
    moment = datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "Z")
    rootfs = document["rootfs"]
    steps = document.get("history") or [{"comment": "unknown"} for _ in rootfs.get("diff_ids") or ()]
    step = {"created": moment, "created_by": " ".join(container.command)}
    step |= {key: value for key, value in (("author", command.author), ("comment", command.message)) if value}
    document["rootfs"] = {"type": "layers", "diff_ids": [*(rootfs.get("diff_ids") or ()), diff_id]}
    document["history"] = [*steps, step]
    document["created"] = moment
    if command.author:
        document["author"] = command.author
