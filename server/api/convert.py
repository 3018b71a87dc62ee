"""Protobuf messages to the engine's dataclasses and back. Nothing else knows both."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from moorage.server.engine import commands
from moorage.server.engine.job import Job
from moorage.server.errors import InvalidArgument
from moorage.server.execdriver.base import NATIVE_RUNTIME
from moorage.server.model import (
    Container,
    ContainerConfig,
    Endpoint,
    Event,
    Image,
    LogConfig,
    Mount,
    NetworkAttachment,
    Platform,
    PortMapping,
    Resources,
    Rlimit,
    Security,
)
from moorage.v1 import image_pb2, network_pb2, runtime_pb2, system_pb2

STATES = {
    "created": runtime_pb2.CONTAINER_STATE_CREATED,
    "starting": runtime_pb2.CONTAINER_STATE_CREATED,
    "running": runtime_pb2.CONTAINER_STATE_RUNNING,
    "exited": runtime_pb2.CONTAINER_STATE_EXITED,
    "removing": runtime_pb2.CONTAINER_STATE_REMOVING,
}
STATE_NAMES = {value: key for key, value in STATES.items() if key != "starting"}
LOG_STREAMS = {"stdout": runtime_pb2.LOG_STREAM_STDOUT, "stderr": runtime_pb2.LOG_STREAM_STDERR}
JOB_STATES = {
    "waiting": system_pb2.JOB_STATE_WAITING,
    "running": system_pb2.JOB_STATE_RUNNING,
    "done": system_pb2.JOB_STATE_DONE,
    "failed": system_pb2.JOB_STATE_FAILED,
    "cancelled": system_pb2.JOB_STATE_CANCELLED,
}


def timestamp(nanoseconds: int) -> Timestamp | None:
    """None, which leaves the field unset, for 0."""
    if not nanoseconds:
        return None
    return Timestamp(seconds=nanoseconds // 1_000_000_000, nanos=nanoseconds % 1_000_000_000)


def nanoseconds(message: Timestamp) -> int:
    """0 for an unset timestamp."""
    return message.seconds * 1_000_000_000 + message.nanos


# --- containers, inward -----------------------------------------------------------------------------------------------


def container_config(message: runtime_pb2.ContainerConfig) -> ContainerConfig:
    """What a container is asked to be."""
    return ContainerConfig(
        image=message.image,
        entrypoint=tuple(message.entrypoint),
        command=tuple(message.command),
        env=tuple(message.env),
        working_dir=message.working_dir,
        user=message.user,
        hostname=message.hostname,
        tty=message.tty,
        stdin_open=message.stdin_open,
        stdin_once=message.stdin_once,
        labels=dict(message.labels),
        stop_signal=message.stop_signal,
        stop_timeout=message.stop_timeout_seconds if message.HasField("stop_timeout_seconds") else None,
        mounts=tuple(_mount(mount) for mount in message.mounts),
        resources=_resources(message.resources),
        security=_security(message.security),
        network=_attachment(message.network),
        init=message.init,
        auto_remove=message.auto_remove,
        log=_log(message.log),
        read_only=message.read_only,
        rootfs_size=message.rootfs_size_bytes,
        runtime="" if message.runtime == NATIVE_RUNTIME else message.runtime,
    )


def _mount(message: runtime_pb2.Mount) -> Mount:
    return Mount(
        kind="tmpfs" if message.kind == runtime_pb2.Mount.KIND_TMPFS else "bind",
        target=message.target,
        source=message.source,
        read_only=message.read_only,
        size=message.size_bytes,
        propagation=message.propagation,
    )


def _resources(message: runtime_pb2.Resources) -> Resources:
    return Resources(
        memory=message.memory_limit_bytes,
        memory_swap=message.memory_swap_limit_bytes,
        cpu_nanos=message.cpu_nanos,
        cpu_shares=message.cpu_shares,
        cpuset_cpus=message.cpuset_cpus,
        cpuset_mems=message.cpuset_mems,
        pids=message.pids_limit,
        rlimits=tuple(Rlimit(limit.name, limit.soft, limit.hard) for limit in message.rlimits),
    )


def _security(message: runtime_pb2.Security) -> Security:
    return Security(
        cap_add=tuple(message.cap_add),
        cap_drop=tuple(message.cap_drop),
        privileged=message.privileged,
        allow_new_privileges=message.allow_new_privileges,
        seccomp_profile=message.seccomp_profile,
    )


def _attachment(message: runtime_pb2.NetworkAttachment) -> NetworkAttachment:
    return NetworkAttachment(
        network=message.network or "bridge",
        ports=tuple(_port(port) for port in message.ports),
        dns_servers=tuple(message.dns_servers),
        dns_searches=tuple(message.dns_searches),
        dns_options=tuple(message.dns_options),
        extra_hosts=tuple(message.extra_hosts),
    )


def _port(message: runtime_pb2.PortMapping) -> PortMapping:
    if not 0 < message.container_port < 65536 or message.host_port > 65535:
        raise InvalidArgument(
            f"port mapping {message.host_port}:{message.container_port} is out of range: ports are 1 to 65535 (host port 0: any free one)",
            field="config.network.ports",
        )
    udp = message.protocol == runtime_pb2.PROTOCOL_UDP
    return PortMapping(message.container_port, message.host_port, message.host_ip, "udp" if udp else "tcp")


def _log(message: runtime_pb2.LogConfig) -> LogConfig:
    if message.max_size_bytes < 0 or message.max_files < 0:
        raise InvalidArgument("log limits must not be negative", field="config.log")
    default = LogConfig()
    return LogConfig(message.max_size_bytes or default.max_size, message.max_files or default.max_files)


# --- containers, outward ----------------------------------------------------------------------------------------------


def container(
    value: Container, *, log_path: str, graph_driver: str, cgroup_path: str, size_rw: int = 0
) -> runtime_pb2.Container:
    """A container, whole."""
    end = value.exit
    return runtime_pb2.Container(
        id=value.id,
        name=value.name,
        image_id=value.image_id,
        config=config_message(value.config),
        state=STATES[value.state],
        pid=value.pid,
        exit_code=end.exit_code if end else 0,
        oom_killed=end.oom_killed if end else False,
        reason=end.reason if end else "",
        error=end.error if end else "",
        created_at=timestamp(value.created_ns),
        started_at=timestamp(value.started_ns),
        finished_at=timestamp(end.finished_ns) if end else None,
        command=value.command,
        endpoint=endpoint(value.endpoint) if value.endpoint else None,
        log_path=log_path,
        graph_driver=graph_driver,
        size_rw_bytes=size_rw,
        cgroup_path=cgroup_path,
    )


def config_message(value: ContainerConfig) -> runtime_pb2.ContainerConfig:
    """The config as it was asked for."""
    return runtime_pb2.ContainerConfig(
        image=value.image,
        entrypoint=value.entrypoint,
        command=value.command,
        env=value.env,
        working_dir=value.working_dir,
        user=value.user,
        hostname=value.hostname,
        tty=value.tty,
        stdin_open=value.stdin_open,
        stdin_once=value.stdin_once,
        labels=value.labels,
        stop_signal=value.stop_signal,
        stop_timeout_seconds=value.stop_timeout,
        mounts=[_mount_message(mount) for mount in value.mounts],
        resources=_resources_message(value.resources),
        security=_security_message(value.security),
        network=_attachment_message(value.network),
        init=value.init,
        auto_remove=value.auto_remove,
        log=runtime_pb2.LogConfig(max_size_bytes=value.log.max_size, max_files=value.log.max_files),
        read_only=value.read_only,
        rootfs_size_bytes=value.rootfs_size,
        runtime=value.runtime,
    )


def _mount_message(value: Mount) -> runtime_pb2.Mount:
    kind = runtime_pb2.Mount.KIND_TMPFS if value.kind == "tmpfs" else runtime_pb2.Mount.KIND_BIND
    return runtime_pb2.Mount(
        kind=kind,
        source=value.source,
        target=value.target,
        read_only=value.read_only,
        size_bytes=value.size,
        propagation=value.propagation,
    )


def _resources_message(value: Resources) -> runtime_pb2.Resources:
    return runtime_pb2.Resources(
        memory_limit_bytes=value.memory,
        memory_swap_limit_bytes=value.memory_swap,
        cpu_nanos=value.cpu_nanos,
        cpu_shares=value.cpu_shares,
        cpuset_cpus=value.cpuset_cpus,
        cpuset_mems=value.cpuset_mems,
        pids_limit=value.pids,
        rlimits=[runtime_pb2.Rlimit(name=limit.name, soft=limit.soft, hard=limit.hard) for limit in value.rlimits],
    )


def _security_message(value: Security) -> runtime_pb2.Security:
    return runtime_pb2.Security(
        cap_add=value.cap_add,
        cap_drop=value.cap_drop,
        privileged=value.privileged,
        allow_new_privileges=value.allow_new_privileges,
        seccomp_profile=value.seccomp_profile,
    )


def _attachment_message(value: NetworkAttachment) -> runtime_pb2.NetworkAttachment:
    return runtime_pb2.NetworkAttachment(
        network=value.network,
        ports=ports(value.ports),
        dns_servers=value.dns_servers,
        dns_searches=value.dns_searches,
        dns_options=value.dns_options,
        extra_hosts=value.extra_hosts,
    )


def ports(values: Iterable[PortMapping]) -> list[runtime_pb2.PortMapping]:
    """Port mappings."""
    return [
        runtime_pb2.PortMapping(
            host_ip=port.host_ip,
            host_port=port.host_port,
            container_port=port.container_port,
            protocol=runtime_pb2.PROTOCOL_UDP if port.protocol == "udp" else runtime_pb2.PROTOCOL_TCP,
        )
        for port in values
    ]


def endpoint(value: Endpoint) -> runtime_pb2.Endpoint:
    """A container's place in its network."""
    return runtime_pb2.Endpoint(
        network=value.network,
        address=value.address,
        gateway=value.gateway,
        mac_address=value.mac_address,
        host_interface=value.host_interface,
        interface=value.interface,
        ports=ports(value.ports),
    )


def process(value: commands.ProcessInfo) -> runtime_pb2.Process:
    """One process of a container."""
    return runtime_pb2.Process(
        pid=value.pid,
        parent_pid=value.parent,
        uid=value.uid,
        cpu_usage_nanos=value.cpu_ns,
        memory_rss_bytes=value.rss,
        started_at=timestamp(value.started_ns),
        command=value.command,
        state=value.state,
    )


def log_entries(lines: Iterable[commands.LogLine]) -> runtime_pb2.GetLogsResponse:
    """A batch of log lines. Made in place: a message built first would be copied into the batch."""
    response = runtime_pb2.GetLogsResponse()
    add, seen, time = response.entries.add, 0, None
    for time_ns, stream, data, partial in lines:
        if time_ns != seen:
            seen, time = time_ns, timestamp(time_ns)
        add(stream=LOG_STREAMS[stream], time=time, data=data, partial=partial)
    return response


def samples(values: Iterable[commands.Sample]) -> runtime_pb2.GetStatsResponse:
    """What containers use."""
    response = runtime_pb2.GetStatsResponse()
    for value in values:
        _add_sample(response, value)
    return response


def _add_sample(response: runtime_pb2.GetStatsResponse, value: commands.Sample) -> None:
    response.stats.add(
        id=value.id,
        name=value.name,
        time=timestamp(value.time_ns),
        cpu_usage_nanos=value.cpu_ns,
        cpu_usage_nano_cores=value.cpu_nano_cores,
        cpu_throttled_nanos=value.cpu_throttled_ns,
        memory_usage_bytes=value.memory,
        memory_working_set_bytes=value.working_set,
        memory_limit_bytes=value.memory_limit,
        pids=value.pids,
        pids_limit=value.pids_limit,
        block_read_bytes=value.io_read,
        block_write_bytes=value.io_write,
        network_receive_bytes=value.rx_bytes,
        network_transmit_bytes=value.tx_bytes,
        network_receive_packets=value.rx_packets,
        network_transmit_packets=value.tx_packets,
        oom_kills=value.oom_kills,
    )


# --- images, networks, the daemon -------------------------------------------------------------------------------------


def platform(message: image_pb2.Platform) -> Platform | None:
    """None when nothing is set."""
    if not (message.os or message.architecture or message.variant):
        return None
    default = Platform()
    return Platform(message.os or default.os, message.architecture or default.architecture, message.variant)


def image(value: Image, used_by: Iterable[str] = ()) -> image_pb2.Image:
    """An image of the graph."""
    config = value.config
    return image_pb2.Image(
        id=value.id,
        tags=value.tags,
        digests=value.digests,
        created_at=timestamp(value.created_ns),
        size_bytes=value.size,
        platform=image_pb2.Platform(
            os=value.platform.os, architecture=value.platform.architecture, variant=value.platform.variant
        ),
        labels=config.labels,
        config=image_pb2.ImageConfig(
            user=config.user,
            env=config.env,
            entrypoint=config.entrypoint,
            command=config.command,
            working_dir=config.working_dir,
            exposed_ports=config.exposed_ports,
            volumes=config.volumes,
            stop_signal=config.stop_signal,
        ),
        layers=[
            image_pb2.ImageLayer(diff_id=layer.diff_id, chain_id=layer.chain_id, size_bytes=layer.size)
            for layer in value.layers
        ],
        used_by=used_by,
    )


def network(view: commands.NetworkView) -> network_pb2.Network:
    """A network with its members."""
    value = view.network
    members = [
        network_pb2.NetworkMember(
            container_id=c.id, container_name=c.name, address=c.endpoint.address if c.endpoint else ""
        )
        for c in view.members
    ]
    return network_pb2.Network(
        id=value.id,
        name=value.name,
        driver=value.driver,
        subnet=value.subnet,
        gateway=value.gateway,
        bridge=value.bridge,
        created_at=timestamp(value.created_ns),
        labels=value.labels,
        members=members,
        internal=value.internal,
    )


def event(value: Event) -> system_pb2.Event:
    """One event."""
    return system_pb2.Event(
        sequence=value.sequence,
        time=timestamp(value.time_ns),
        kind=value.kind,
        action=value.action,
        id=value.id,
        name=value.name,
        attributes=value.attributes,
    )


def job(value: Job) -> system_pb2.Job:
    """One job."""
    return system_pb2.Job(
        id=value.id,
        verb=value.verb,
        object=value.subject,
        caller=value.context.caller,
        state=JOB_STATES[value.state.value],
        created_at=timestamp(value.created_ns),
        duration_nanos=value.duration_ns,
        stages=[system_pb2.JobStage(name=stage.name, duration_nanos=stage.duration) for stage in value.stages],
        error=value.error,
    )
