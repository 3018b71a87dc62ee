"""The containers of this daemon: look-up by ID, prefix or name, changes of state with their events, and waiting for an end.

The GraphDB is the only store. A container is a node; its name is an edge `container-name` (so uniqueness is a constraint), edges
`container-image` hold its image and those it mounts, and an edge `pod-container` the pod it shares.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace

from moorage.server.errors import FailedPrecondition, InvalidArgument, NotFound
from moorage.server.graph.graphdb import GraphDB, Transaction
from moorage.server.model import Container, ExitStatus, PodRecord, State

KIND = "container"
POD_KIND = "pod"
NAME = "container-name"
IMAGE = "container-image"
POD = "pod-container"


class Containers:
    """Reads are from memory and thread-safe; `gone` belongs to the event loop that `loop` names."""

    def __init__(self, db: GraphDB) -> None:
        self._db = db
        self._waiters: defaultdict[str, list[asyncio.Future[ExitStatus]]] = defaultdict(list)
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Waiters live on this loop."""
        self._loop = loop

    def all(self) -> list[Container]:
        """Every container, newest first."""
        return sorted(self._db.all(KIND, Container), key=lambda container: (-container.created_ns, container.id))

    def resolve(self, text: str) -> str:
        """The full ID of what the caller wrote: ID, name, or unique prefix. Raises NotFound or InvalidArgument (ambiguous)."""
        if not text:
            raise InvalidArgument("no container was named", field="id")
        if self._db.get(KIND, text, Container) is not None:
            return text
        named = self._db.lookup(NAME, text)
        if named is not None:
            return named
        found = self._db.find(KIND, text)
        if len(found) == 1:
            return found[0]
        if found:
            some = ", ".join(sorted(found)[:5])
            raise InvalidArgument(f"container ID prefix {text!r} is ambiguous: {some}", hint="give more of the ID")
        raise NotFound(f"no such container: {text}", hint="list all containers with `moorage ps -a`", container=text)

    def get(self, text: str) -> Container:
        """The container of that ID, name or prefix."""
        container = self._db.get(KIND, self.resolve(text), Container)
        if container is None:
            raise NotFound(f"no such container: {text}", container=text)
        return container

    def named(self, name: str) -> str | None:
        """ID of the container that has this very name."""
        return self._db.lookup(NAME, name)

    def find(self, container_id: str) -> Container | None:
        """The container of that very ID."""
        return self._db.get(KIND, container_id, Container)

    def of_pod(self, pod_id: str) -> list[Container]:
        """The containers that share a pod."""
        found = (self.find(container_id) for container_id in self._db.names(POD, pod_id))
        return [container for container in found if container is not None]

    def add(self, container: Container) -> None:
        """A new container, with its name and its hold on images and pod.

        Raises AlreadyExists when the name is taken, FailedPrecondition when the pod is not ready any more.
        """
        with self._db.transaction() as tx:
            tx.put(KIND, container.id, container)
            tx.link(NAME, container.name, container.id)
            if container.image_id:
                tx.link(IMAGE, container.id, container.image_id, source=container.id)
            for number, image_id in enumerate(container.mounted_images):
                tx.link(IMAGE, f"{container.id}/{number}", image_id, source=container.id)
            if container.pod_id:
                pod = tx.get(POD_KIND, container.pod_id, PodRecord)
                if pod is None or pod.state != "ready":
                    raise FailedPrecondition(f"pod {container.pod_id} is not ready", pod=container.pod_id)
                tx.link(POD, container.id, container.pod_id, source=container.id)
            self._event(tx, container, "create", image=container.config.image)

    def save(self, container: Container, *actions: str, **attributes: object) -> Container:
        """A container's new state, with the events that tell of it, in one transaction."""
        with self._db.transaction() as tx:
            tx.put(KIND, container.id, container)
            for action in actions:
                self._event(tx, container, action, **attributes)
        return container

    def tell(self, container: Container, action: str, **attributes: object) -> None:
        """An event that changes no state."""
        with self._db.transaction() as tx:
            self._event(tx, container, action, **attributes)

    def ended(self, container: Container, status: ExitStatus) -> Container:
        """Record how a container ended, with its events. One that removes itself is on its way out with that."""
        state: State = "removing" if container.config.auto_remove else "exited"
        now = replace(container, state=state, pid=0, endpoint=None, exit=status)
        actions = ("oom", "die") if status.oom_killed else ("die",)
        return self.save(now, *actions, exit_code=status.exit_code, reason=status.reason)

    def delete(self, container: Container) -> None:
        """Forget a container; its name is free again."""
        with self._db.transaction() as tx:
            tx.unlink(NAME, container.name)
            tx.unlink(IMAGE, container.id)
            tx.delete(KIND, container.id)
            self._event(tx, container, "remove")

    def running(self, image_id: str) -> list[str]:
        """The names of the containers made from an image that run."""
        return [
            each.name for each in self.all() if each.image_id == image_id and each.state not in ("created", "exited")
        ]

    def using(self, image_id: str) -> list[str]:
        """Names of the containers made from an image, or that mount it."""
        return sorted(
            c.name for c in self._db.all(KIND, Container) if c.image_id == image_id or image_id in c.mounted_images
        )

    async def gone(self, container_id: str) -> ExitStatus:
        """How the container ended, once it does not run and all that follows from its end is done."""
        container = self._db.get(KIND, container_id, Container)
        if container is None:
            raise NotFound(f"no such container: {container_id}")
        if container.state in ("created", "exited"):
            return container.exit or ExitStatus(0, 0)
        future: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._waiters[container_id].append(future)
        try:
            return await future
        finally:
            self._forget(container_id, future)

    def settle(self, container_id: str, status: ExitStatus) -> None:
        """Wake those who wait for the container's end. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake, container_id, status)

    def _wake(self, container_id: str, status: ExitStatus) -> None:
        for future in self._waiters.pop(container_id, []):
            if not future.done():
                future.set_result(status)

    def _forget(self, container_id: str, future: asyncio.Future[ExitStatus]) -> None:
        waiting = self._waiters.get(container_id)
        if waiting and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiters[container_id]

    @staticmethod
    def _event(tx: Transaction, container: Container, action: str, **attributes: object) -> None:
        told = {"pod": container.pod_id, **attributes} if container.pod_id else attributes
        tx.event(KIND, action, container.id, container.name, **{key: str(value) for key, value in told.items()})
