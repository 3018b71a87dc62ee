"""The pods of this daemon: look-up by ID or prefix, and changes of state with their events.

A pod is a node of the GraphDB; the edge `pod-name`, named `namespace/name/uid/attempt`, makes those four unique together.
"""

from __future__ import annotations

from dataclasses import replace

from moorage.server.engine.containers import POD_KIND as KIND
from moorage.server.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from moorage.server.graph.graphdb import GraphDB, Transaction
from moorage.server.model import PodConfig, PodRecord

NAME = "pod-name"


def key(config: PodConfig) -> str:
    """What is unique about a pod."""
    return f"{config.namespace}/{config.name}/{config.uid}/{config.attempt}"


class Pods:
    """Thread-safe; reads are from memory."""

    def __init__(self, db: GraphDB) -> None:
        self._db = db

    def all(self) -> list[PodRecord]:
        """Every pod, newest first."""
        return sorted(self._db.all(KIND, PodRecord), key=lambda pod: (-pod.created_ns, pod.id))

    def find(self, pod_id: str) -> PodRecord | None:
        """The pod of that very ID."""
        return self._db.get(KIND, pod_id, PodRecord)

    def named(self, config: PodConfig) -> PodRecord | None:
        """The pod that has the names of this config."""
        pod_id = self._db.lookup(NAME, key(config))
        return None if pod_id is None else self.find(pod_id)

    def resolve(self, text: str) -> str:
        """The full ID of an ID or unique prefix. Raises NotFound or InvalidArgument (ambiguous)."""
        if not text:
            raise InvalidArgument("no pod was named", field="pod_sandbox_id")
        found = [text] if self.find(text) else self._db.find(KIND, text)
        if len(found) > 1:
            some = ", ".join(found[:5])
            raise InvalidArgument(f"pod ID prefix {text!r} is ambiguous: {some}", hint="give more of the ID")
        if not found:
            raise NotFound(f"no such pod: {text}", pod=text)
        return found[0]

    def get(self, text: str) -> PodRecord:
        """The pod of that ID or prefix. Raises NotFound or InvalidArgument (ambiguous)."""
        pod = self.find(self.resolve(text))
        if pod is None:
            raise NotFound(f"no such pod: {text}", pod=text)
        return pod

    def ready(self, text: str) -> PodRecord:
        """The same, of a pod that containers can be run in. Raises FailedPrecondition too."""
        pod = self.get(text)
        if pod.state != "ready":
            raise FailedPrecondition(f"pod {pod.id} is not ready", pod=pod.id, state=pod.state)
        return pod

    def add(self, pod: PodRecord) -> None:
        """A new pod. Raises AlreadyExists when its names are taken."""
        with self._db.transaction() as tx:
            taken = tx.lookup(NAME, key(pod.config))
            if taken is not None:
                raise AlreadyExists(
                    f"pod {key(pod.config)} exists: {taken}",
                    reason="NAME_IN_USE",
                    hint="remove that pod, or count its attempt up",
                    pod=taken,
                )
            tx.put(KIND, pod.id, pod)
            tx.link(NAME, key(pod.config), pod.id)

    def save(self, pod: PodRecord, *actions: str) -> PodRecord:
        """A pod's new state, with the events that tell of it, in one transaction."""
        with self._db.transaction() as tx:
            tx.put(KIND, pod.id, pod)
            for action in actions:
                self._event(tx, pod, action)
        return pod

    def lost(self, pod_id: str) -> None:
        """The pod's supervisor has died, and with it all that ran there."""
        pod = self.find(pod_id)
        if pod is not None and pod.state == "ready":
            self.save(replace(pod, state="notready"))

    def delete(self, pod: PodRecord, *actions: str) -> None:
        """Forget a pod that no container is left of; its names are free again."""
        with self._db.transaction() as tx:
            tx.unlink(NAME, key(pod.config))
            tx.delete(KIND, pod.id)
            for action in actions:
                self._event(tx, pod, action)

    @staticmethod
    def _event(tx: Transaction, pod: PodRecord, action: str) -> None:
        tx.event(KIND, action, pod.id, pod.config.name, namespace=pod.config.namespace, uid=pod.config.uid)
