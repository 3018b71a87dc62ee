"""GetContainerEvents: the engine's events in CRI's words, each with the statuses as they are when it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api import context as ctx
from moorage.server.api.cri.calls import Calls, Ctx
from moorage.server.engine import commands
from moorage.server.engine import podcommands as pods
from moorage.server.engine.job import Context
from moorage.server.errors import DataLoss, NotFound
from moorage.server.model import Event

TYPES = {
    ("container", "create"): pb.CONTAINER_CREATED_EVENT,
    ("container", "start"): pb.CONTAINER_STARTED_EVENT,
    ("container", "die"): pb.CONTAINER_STOPPED_EVENT,
    ("container", "remove"): pb.CONTAINER_DELETED_EVENT,
    ("pod", "create"): pb.CONTAINER_CREATED_EVENT,
    ("pod", "start"): pb.CONTAINER_STARTED_EVENT,
    ("pod", "stop"): pb.CONTAINER_STOPPED_EVENT,
    ("pod", "remove"): pb.CONTAINER_DELETED_EVENT,
}


class EventCalls(Calls):
    """Events of containers, and of pods under the pod's ID.

    A slow reader delays only itself; when what it has not read is no longer kept, its stream ends in an error that says so, as CRI has no
    message for that: a kubelet then lists everything and subscribes anew.
    """

    async def GetContainerEvents(
        self, request: pb.GetEventsRequest, context: Ctx
    ) -> AsyncIterator[pb.ContainerEventResponse]:
        caller = ctx.of(context)
        command = commands.Events(
            after=await self._engine.run(commands.LastEvent(), caller),
            kinds=frozenset(kind for kind, _ in TYPES),
            actions=frozenset(action for _, action in TYPES),
        )
        # Tells a client, before anything happens, that it misses nothing from now on.
        await context.send_initial_metadata(())
        async with aclosing(self._engine.stream(command, caller)) as items:
            async for event in items:
                if event.kind == "gap":
                    raise _lost(event)
                # A container without a pod is not CRI's.
                pod_id = event.id if event.kind == "pod" else event.attributes.get("pod")
                if pod_id and (event.kind, event.action) in TYPES:
                    yield await self._event_message(event, pod_id, caller)

    async def _event_message(self, event: Event, pod_id: str, caller: Context) -> pb.ContainerEventResponse:
        """Without statuses when the pod is gone."""
        message = pb.ContainerEventResponse(
            container_id=event.id,
            container_event_type=TYPES[event.kind, event.action],
            created_at=event.time_ns,
        )
        try:
            pod = await self._engine.run(pods.InspectPod(pod_id), caller)
        except NotFound:
            return message
        status, containers = await self._pod_statuses(pod, caller)
        message.pod_sandbox_status.CopyFrom(status)
        message.containers_statuses.extend(containers)
        return message


def _lost(gap: Event) -> DataLoss:
    first, last = gap.attributes["first"], gap.attributes["last"]
    return DataLoss(
        f"events {first} to {last} are no longer kept: their reader was too slow",
        reason="EVENTS_LOST",
        hint="list pods and containers, then subscribe anew",
        first=first,
        last=last,
    )
