"""How a supervisor hands its pod to the keeper: one message of the pod, and one of each container, with what is open.

{"pod", "watchers": 1}, with the pod's directory, the listening socket, the watchers' sockets and /dev/shm if the pod has its own
{"spec", …}, see Container.hand_over
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.supervisor import oom, starter
from moorage.server.supervisor.container import Surroundings
from moorage.server.supervisor.keeper import Inheritance
from moorage.server.supervisor.loop import Loop
from moorage.server.supervisor.protocol import MAX_FDS, Decoder, ProtocolError, pack_message, send_all
from moorage.server.supervisor.sessions import Session
from moorage.server.supervisor.supervisor import Supervisor

MAX_WATCHERS = MAX_FDS - 3


def can_hand_over(loop: Loop, pod: Supervisor, own: Iterable[int]) -> bool:
    """Whether nothing goes on: `own` are the descriptors that the process watches for itself."""
    if not pod.quiet or len(pod.watchers) > MAX_WATCHERS or not all(each.idle for each in pod.watchers):
        return False
    outputs = [fd for each in pod.containers.values() for fd in each.outputs]
    return loop.watches_only([*own, *(each.fileno() for each in pod.watchers), *outputs])


def hand_over(keeper: socket.socket, pod: Supervisor, listener: int) -> None:
    """Send all. The sender must not touch anything of it after that, and end."""
    around = pod.around
    shm = [] if around.shm is None else [around.shm]
    fds = [around.directory, listener, *(each.fileno() for each in pod.watchers), *shm]
    message = {"pod": pod.pod_id, "watchers": len(pod.watchers), "containers": len(pod.containers)}
    send_all(keeper, pack_message(message, fds), fds)
    for container in pod.containers.values():
        message, fds = container.hand_over()
        send_all(keeper, pack_message(message, fds), fds)


def take_over(loop: Loop, cgroups: CgroupManager, pid: int, legacy: Inheritance) -> tuple[Supervisor, int]:
    """The same pod in this process, which is `pid`, and its listening socket. Raises ProtocolError when the sender died before it had sent
    all."""
    first, *containers = Decoder().feed(b"".join(legacy.pieces), legacy.fds)
    if len(containers) != first.message["containers"]:
        raise ProtocolError(f"{len(containers)} of {first.message['containers']} containers were handed over")
    directory, listener, *rest = first.fds
    count = first.message["watchers"]
    shm = rest[count] if len(rest) > count else None
    around = Surroundings(loop, cgroups, directory, oom.usual(), shm=shm)
    pod = Supervisor(first.message["pod"], pid, around)
    for fd in rest[:count]:
        pod.watch(Session(pod, socket.socket(fileno=fd)).connection)
    for frame in containers:
        spec = frame.message["spec"]
        pod.adopt(spec, starter.told(spec, frame))
    return pod, listener
