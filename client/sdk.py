"""The SDK: a thin, typed layer over the stubs of `moorage.v1`.

Data are the messages of the API (`moorage.v1.runtime_pb2.Container` and so on, documented in protos/moorage/v1).
Wherever a method takes `container`, an ID, a unique prefix of one or a name will do. Every method raises MoorageError
(see `moorage.client.errors`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from moorage.client.caller import Caller, timestamp
from moorage.client.connection import TLS, connect
from moorage.client.images import Images
from moorage.client.registry import Registry
from moorage.client.streams import Session, Stream
from moorage.v1 import (
    network_pb2,
    network_pb2_grpc,
    runtime_pb2,
    runtime_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
)

if TYPE_CHECKING:
    from moorage.client.builds import Builds


class Client:
    """A connection to a daemon.

    `url` is `unix:///path` or `tcp://host:port`; None for `MOORAGE_HOST`, then unix:///run/moorage/moorage.sock.
    `tls` names PEM files; `insecure` allows plain tcp:// on loopback. `timeout` is a deadline in seconds for each
    call that answers once (None: no deadline). A client may be shared by threads.
    """

    def __init__(
        self, url: str | None = None, *, tls: TLS | None = None, insecure: bool = False, timeout: float | None = None
    ) -> None:
        channel, address = connect(url, tls=tls, insecure=insecure)
        self._caller = Caller(channel, address, timeout)
        self.images = Images(self._caller)
        self.containers = Containers(self._caller)
        self.networks = Networks(self._caller)
        self.registry = Registry(self._caller)
        self.system = System(self._caller)

    @cached_property
    def builds(self) -> Builds:
        """Builds. What they need is loaded when it is first asked for: most commands do without."""
        from moorage.client.builds import Builds

        return Builds(self._caller)

    @property
    def url(self) -> str:
        """The daemon's address."""
        return str(self._caller.address)

    def close(self) -> None:
        """Close the connection; calls that still run fail with Cancelled."""
        self._caller.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Containers:
    """The life of containers, and what runs in them."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._stub = runtime_pb2_grpc.RuntimeServiceStub(caller.channel)

    def create(self, config: runtime_pb2.ContainerConfig, *, name: str = "") -> runtime_pb2.CreateContainerResponse:
        """Make a container from an image that is here; nothing runs yet."""
        return self._caller.unary(
            self._stub.CreateContainer, runtime_pb2.CreateContainerRequest(name=name, config=config)
        )

    def start(self, container: str) -> int:
        """Run it; answers the first process's pid on the host."""
        return self._caller.unary(self._stub.StartContainer, runtime_pb2.StartContainerRequest(id=container)).pid

    def stop(self, container: str, *, timeout: int | None = None) -> None:
        """Stop it: SIGKILL `timeout` seconds after the stop signal (None: the container's own time)."""
        self._caller.unary(
            self._stub.StopContainer, runtime_pb2.StopContainerRequest(id=container, timeout_seconds=timeout)
        )

    def kill(self, container: str, *, signal: str = "SIGKILL") -> None:
        """Send a signal to its first process."""
        self._caller.unary(self._stub.KillContainer, runtime_pb2.KillContainerRequest(id=container, signal=signal))

    def remove(self, container: str, *, force: bool = False) -> None:
        """Remove it with its writable layer and logs; with `force` also when it runs."""
        self._caller.unary(self._stub.RemoveContainer, runtime_pb2.RemoveContainerRequest(id=container, force=force))

    def list(
        self,
        *,
        all: bool = False,
        states: Iterable[runtime_pb2.ContainerState] = (),
        labels: Mapping[str, str] | None = None,
        name: str = "",
        image: str = "",
    ) -> list[runtime_pb2.Container]:
        """Containers, newest first: those that run, or `all`. The other arguments narrow it down, all together."""
        request = runtime_pb2.ListContainersRequest(all=all, states=list(states), labels=labels, name=name, image=image)
        return [
            container
            for page in self._caller.pages(self._stub.ListContainers, request)
            for container in page.containers
        ]

    def get(self, container: str, *, size: bool = False) -> runtime_pb2.Container:
        """One container, whole; with `size` the bytes of its writable layer are counted."""
        return self._caller.unary(self._stub.GetContainer, runtime_pb2.GetContainerRequest(id=container, size=size))

    def wait(self, container: str) -> runtime_pb2.WaitContainerResponse:
        """Wait, without deadline, until it does not run any more; answers how it ended."""
        return self._caller.unary(
            self._stub.WaitContainer, runtime_pb2.WaitContainerRequest(id=container), forever=True
        )

    def commit(
        self,
        container: str,
        reference: str = "",
        *,
        author: str = "",
        message: str = "",
        changes: Iterable[str] = (),
        pause: bool = True,
        compression: str = "",
    ) -> runtime_pb2.CommitContainerResponse:
        """Make an image of what it has changed, named `reference` where given; `changes` are lines of a Dockerfile."""
        request = runtime_pb2.CommitContainerRequest(
            id=container,
            reference=reference,
            author=author,
            message=message,
            changes=list(changes),
            without_pause=not pause,
            compression=compression,
        )
        return self._caller.unary(self._stub.CommitContainer, request)

    def export(self, container: str, *, pause: bool = False) -> Stream[runtime_pb2.ExportContainerResponse]:
        """Its root file system as a tar, in pieces; with `pause` it is held still meanwhile."""
        return self._caller.stream(
            self._stub.ExportContainer, runtime_pb2.ExportContainerRequest(id=container, pause=pause)
        )

    def processes(self, container: str) -> Sequence[runtime_pb2.Process]:
        """Its processes, by pid, as the host sees them."""
        return self._caller.unary(self._stub.ListProcesses, runtime_pb2.ListProcessesRequest(id=container)).processes

    def attach(
        self,
        container: str,
        *,
        start: bool = False,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        size: tuple[int, int] | None = None,
        lossless: bool = False,
    ) -> Session:
        """Connect to its streams; with `start` also run it, so that no output is missed. `size` is columns and rows.

        `lossless`: while you do not read, the container is held back as by a pipe; otherwise a slow reader is cut off.
        """
        opening = runtime_pb2.AttachRequest.Open(
            id=container, start=start, stdin=stdin, stdout=stdout, stderr=stderr, size=_size(size), lossless=lossless
        )
        return Session(self._stub.Attach, runtime_pb2.AttachRequest, opening, self._caller.error)

    def exec(
        self,
        container: str,
        command: Sequence[str],
        *,
        env: Iterable[str] = (),
        working_dir: str = "",
        user: str = "",
        tty: bool = False,
        stdin: bool = False,
        size: tuple[int, int] | None = None,
        detach: bool = False,
        privileged: bool = False,
    ) -> Session:
        """Run one more process in a running container. With `detach` it runs on and the session is over at once."""
        opening = runtime_pb2.ExecRequest.Open(
            id=container,
            command=command,
            env=env,
            working_dir=working_dir,
            user=user,
            tty=tty,
            stdin=stdin,
            size=_size(size),
            detach=detach,
            privileged=privileged,
        )
        return Session(self._stub.Exec, runtime_pb2.ExecRequest, opening, self._caller.error)

    def exec_sync(
        self,
        container: str,
        command: Sequence[str],
        *,
        env: Iterable[str] = (),
        working_dir: str = "",
        user: str = "",
        privileged: bool = False,
        timeout: float = 0,
    ) -> runtime_pb2.ExecSyncResponse:
        """Run one more process in a running container to its end, at most `timeout` seconds (0: as long as it takes)."""
        request = runtime_pb2.ExecSyncRequest(
            id=container,
            command=command,
            env=env,
            working_dir=working_dir,
            user=user,
            privileged=privileged,
            timeout_millis=round(timeout * 1000),
        )
        return self._caller.unary(self._stub.ExecSync, request)

    def logs(
        self,
        container: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        streams: Iterable[runtime_pb2.LogStream] = (),
    ) -> Stream[runtime_pb2.GetLogsResponse]:
        """What it wrote, oldest first, in batches: the last `tail` lines (None: all), then with `follow` what comes."""
        request = runtime_pb2.GetLogsRequest(
            id=container,
            follow=follow,
            tail_lines=tail,
            since=timestamp(since),
            until=timestamp(until),
            streams=list(streams),
        )
        return self._caller.stream(self._stub.GetLogs, request)

    def stats(
        self, containers: Iterable[str] = (), *, stream: bool = True, interval_millis: int = 0
    ) -> Stream[runtime_pb2.GetStatsResponse]:
        """Samples of what containers use (none named: all that run), one message a sample; without `stream` only one."""
        request = runtime_pb2.GetStatsRequest(ids=list(containers), stream=stream, interval_millis=interval_millis)
        return self._caller.stream(self._stub.GetStats, request)


class Networks:
    """The networks that containers join."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._stub = network_pb2_grpc.NetworkServiceStub(caller.channel)

    def create(
        self,
        name: str,
        *,
        subnet: str = "",
        gateway: str = "",
        internal: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> network_pb2.Network:
        """Make a bridge network; what is left out the daemon chooses."""
        request = network_pb2.CreateNetworkRequest(
            name=name, subnet=subnet, gateway=gateway, internal=internal, labels=labels
        )
        return self._caller.unary(self._stub.CreateNetwork, request)

    def remove(self, network: str) -> None:
        """Remove one by name, ID or unique ID prefix."""
        self._caller.unary(self._stub.RemoveNetwork, network_pb2.RemoveNetworkRequest(network=network))

    def list(self) -> list[network_pb2.Network]:
        """All networks, by name."""
        pages = self._caller.pages(self._stub.ListNetworks, network_pb2.ListNetworksRequest())
        return [network for page in pages for network in page.networks]

    def get(self, network: str) -> network_pb2.Network:
        """One network by name, ID or unique ID prefix."""
        return self._caller.unary(self._stub.GetNetwork, network_pb2.GetNetworkRequest(network=network))


class System:
    """The daemon itself."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._stub = system_pb2_grpc.SystemServiceStub(caller.channel)

    def version(self) -> system_pb2.GetVersionResponse:
        """The daemon's version."""
        return self._caller.unary(self._stub.GetVersion, system_pb2.GetVersionRequest())

    def info(self) -> system_pb2.GetInfoResponse:
        """How the daemon is set up and what it holds."""
        return self._caller.unary(self._stub.GetInfo, system_pb2.GetInfoRequest())

    def events(
        self,
        *,
        after: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        kinds: Iterable[str] = (),
        actions: Iterable[str] = (),
        object: str = "",
    ) -> Stream[system_pb2.Event]:
        """Events in order: after a sequence number or since a time, then those that come, until a time or until
        closed.
        """
        request = system_pb2.StreamEventsRequest(
            after_sequence=after,
            since=timestamp(since),
            until=timestamp(until),
            kinds=list(kinds),
            actions=list(actions),
            object=object,
        )
        return self._caller.stream(self._stub.StreamEvents, request)

    def jobs(self, *, all: bool = False) -> list[system_pb2.Job]:
        """Jobs that run now, oldest first; with `all` also the last that ended."""
        return list(self._caller.unary(self._stub.ListJobs, system_pb2.ListJobsRequest(all=all)).jobs)

    def disk_usage(self) -> system_pb2.GetDiskUsageResponse:
        """What the daemon's root directory takes on the disk."""
        return self._caller.unary(self._stub.GetDiskUsage, system_pb2.GetDiskUsageRequest())

    def check_store(self, *, repair: bool = False, files: bool = False) -> Stream[system_pb2.CheckStoreResponse]:
        """Verify the image store, with `files` every file of its layers; with `repair` mend what can be. Findings as they come, the sum
        last."""
        return self._caller.stream(self._stub.CheckStore, system_pb2.CheckStoreRequest(repair=repair, files=files))

    def graph(self) -> Stream[system_pb2.StreamGraphResponse]:
        """The daemon's database as a graph in the dot language, in pieces."""
        return self._caller.stream(self._stub.StreamGraph, system_pb2.StreamGraphRequest())

    def cancel_job(self, job: int) -> None:
        """Ask a running job to stop and undo what it half did."""
        self._caller.unary(self._stub.CancelJob, system_pb2.CancelJobRequest(id=job))


def _size(size: tuple[int, int] | None) -> runtime_pb2.TerminalSize | None:
    return None if size is None else runtime_pb2.TerminalSize(width=size[0], height=size[1])
