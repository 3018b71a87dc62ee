"""PodSandboxConfig to the engine's PodConfig, and pods back to CRI's messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api.cri import common
from moorage.server.errors import InvalidArgument, Unimplemented
from moorage.server.model import NetworkAttachment, PodConfig, PodRecord, PortMapping, Security

_SYSCTL = re.compile(r"[a-z0-9][a-z0-9_-]*([./][a-zA-Z0-9_-]+)+")
_PROTOCOLS: dict[int, Literal["tcp", "udp"]] = {pb.TCP: "tcp", pb.UDP: "udp"}
_PID_MODES = {pb.POD: "pod", pb.CONTAINER: "container", pb.NODE: "host"}
_PID_MESSAGES = {name: mode for mode, name in _PID_MODES.items()}


def pod_config(message: pb.PodSandboxConfig, handler: str, runtimes: Mapping[str, bool] | None = None) -> PodConfig:
    """What a pod is asked to be; `runtimes` are the handlers that stand for OCI runtimes, and whether they have user namespaces.

    Reads its seccomp profile. Raises InvalidArgument.
    """
    metadata, runtimes = message.metadata, runtimes or {}
    if not metadata.name:
        raise InvalidArgument("a pod needs metadata with a name", field="config.metadata.name")
    security = message.linux.security_context
    options = security.namespace_options
    network = _pod_or_host(options.network, "network")
    users, groups_map = (), ()  # type: tuple[Any, ...], tuple[Any, ...]
    if options.HasField("userns_options"):
        users, groups_map = common.user_maps(options.userns_options)
    if users and network == "host":
        raise InvalidArgument("a pod with a user namespace cannot have the host's network", field="userns_options")
    if users and handler in runtimes:
        if not runtimes[handler]:
            raise InvalidArgument(f"runtime handler {handler!r} has no user namespaces", field="userns_options")
        common.check_pid_of_mapped(options.pid, handler)
    return PodConfig(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        attempt=metadata.attempt,
        hostname=message.hostname,
        log_directory=_directory(message.log_directory),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        runtime_handler=handler,
        runtime=handler if handler in runtimes else "",
        cgroup_parent=_cgroup_parent(message.linux.cgroup_parent),
        sysctls=_sysctls(message.linux.sysctls),
        attachment=_attachment(message, network),
        dns=message.HasField("dns_config"),
        network=network,
        ipc=_pod_or_host(options.ipc, "ipc"),
        pid=_pid(options.pid),
        users=users,
        groups_map=groups_map,
        security=_security(security),
        user=common.user(security),
        resources=common.resources(message.linux.resources),
        overhead=common.resources(message.linux.overhead),
    )


def _pod_or_host(mode: int, field: str) -> Literal["pod", "host"]:
    if mode not in (pb.POD, pb.NODE):
        raise InvalidArgument(
            f"{field}: a pod has its own (POD) or the host's (NODE), not {pb.NamespaceMode.Name(mode)}",
            field=f"namespace_options.{field}",
        )
    return "host" if mode == pb.NODE else "pod"


def _pid(mode: int) -> str:
    if mode not in _PID_MODES:
        raise InvalidArgument("pid: a pod cannot share another container's (TARGET)", field="namespace_options.pid")
    return _PID_MODES[mode]  # type: ignore[index]


def _directory(path: str) -> str:
    if path and (not path.startswith("/") or ".." in path.split("/") or "\0" in path):
        raise InvalidArgument(f"log_directory {path!r} is not an absolute path", field="config.log_directory")
    return path.rstrip("/") if path != "/" else path


def _cgroup_parent(path: str) -> str:
    """As a path below each hierarchy's root, with a slash before it; empty for none."""
    parts = [part for part in path.split("/") if part]
    if {".", ".."} & set(parts) or "\0" in path:
        raise InvalidArgument(f"cgroup_parent {path!r} is not a cgroup's path", field="config.linux.cgroup_parent")
    return "/" + "/".join(parts) if parts else ""


def _sysctls(given: Any) -> dict[str, str]:
    for name in given:
        if not _SYSCTL.fullmatch(name) or ".." in name:
            raise InvalidArgument(f"{name!r} is not a sysctl's name", field="config.linux.sysctls")
    return dict(given)


def _attachment(message: pb.PodSandboxConfig, network: str) -> NetworkAttachment:
    dns = message.dns_config
    return NetworkAttachment(
        network="host" if network == "host" else "",
        ports=() if network == "host" else tuple(_port(each) for each in message.port_mappings if each.host_port),
        dns_servers=tuple(dns.servers),
        dns_searches=tuple(dns.searches),
        dns_options=tuple(dns.options),
    )


def _port(message: pb.PortMapping) -> PortMapping:
    if message.protocol not in _PROTOCOLS:
        raise Unimplemented("host ports are TCP or UDP, not SCTP", field="config.port_mappings")
    if not (0 < message.container_port < 65536 and 0 < message.host_port < 65536):
        raise InvalidArgument(
            f"port mapping {message.host_port}:{message.container_port} is out of range: ports are 1 to 65535",
            field="config.port_mappings",
        )
    return PortMapping(message.container_port, message.host_port, message.host_ip, _PROTOCOLS[message.protocol])


def _security(message: pb.LinuxSandboxSecurityContext) -> Security:
    return Security(
        privileged=message.privileged,
        seccomp_profile=common.seccomp(message),
        apparmor_profile=common.apparmor(message),
        selinux_label=common.selinux(message.selinux_options),
        groups=common.groups(message),
        strict_groups=message.supplemental_groups_policy == pb.Strict,
    )


# --- outward ----------------------------------------------------------------------------------------------------------


def pod(value: PodRecord) -> pb.PodSandbox:
    """A pod in a list."""
    return pb.PodSandbox(
        id=value.id,
        metadata=pod_metadata(value.config),
        state=pod_state(value),
        created_at=value.created_ns,
        labels=value.config.labels,
        annotations=value.config.annotations,
        runtime_handler=value.config.runtime_handler,
    )


def listed(value: PodRecord) -> bytes:
    """A list of this one alone, serialised: put one after the other, such lists are the list of all."""
    return pb.ListPodSandboxResponse(items=[pod(value)]).SerializeToString()


def pod_status(value: PodRecord) -> pb.PodSandboxStatus:
    """A pod, whole."""
    config = value.config
    return pb.PodSandboxStatus(
        id=value.id,
        metadata=pod_metadata(config),
        state=pod_state(value),
        created_at=value.created_ns,
        network=pb.PodSandboxNetworkStatus(ip=value.endpoint.address.partition("/")[0] if value.endpoint else ""),
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=_namespaces(config))),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=config.runtime_handler,
    )


def config_message(config: PodConfig) -> pb.PodSandboxConfig:
    """What was asked for, but for security profiles."""
    attachment, security = config.attachment, config.security
    context = pb.LinuxSandboxSecurityContext(
        namespace_options=_namespaces(config),
        privileged=security.privileged,
        supplemental_groups=security.groups,
    )
    common.fill_user(context, config.user)
    message = pb.PodSandboxConfig(
        metadata=pod_metadata(config),
        hostname=config.hostname,
        log_directory=config.log_directory,
        port_mappings=[_port_message(port) for port in attachment.ports],
        labels=config.labels,
        annotations=config.annotations,
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=config.cgroup_parent,
            security_context=context,
            sysctls=config.sysctls,
        ),
    )
    for told, limits in ((message.linux.resources, config.resources), (message.linux.overhead, config.overhead)):
        if (limited := common.resources_message(limits)).ListFields():
            told.CopyFrom(limited)
    if config.dns:
        message.dns_config.CopyFrom(
            pb.DNSConfig(
                servers=attachment.dns_servers, searches=attachment.dns_searches, options=attachment.dns_options
            )
        )
    return message


def _port_message(port: PortMapping) -> pb.PortMapping:
    protocol = pb.UDP if port.protocol == "udp" else pb.TCP
    return pb.PortMapping(
        protocol=protocol, container_port=port.container_port, host_port=port.host_port, host_ip=port.host_ip
    )


def pod_metadata(config: PodConfig) -> pb.PodSandboxMetadata:
    """What the orchestrator calls a pod."""
    return pb.PodSandboxMetadata(name=config.name, uid=config.uid, namespace=config.namespace, attempt=config.attempt)


def pod_state(value: PodRecord) -> pb.PodSandboxState:
    """A pod that is being made or removed is not ready."""
    return pb.SANDBOX_READY if value.state == "ready" else pb.SANDBOX_NOTREADY


def _namespaces(config: PodConfig) -> pb.NamespaceOption:
    options = pb.NamespaceOption(
        network=pb.NODE if config.network == "host" else pb.POD,
        ipc=pb.NODE if config.ipc == "host" else pb.POD,
        pid=_PID_MESSAGES[config.pid],
    )
    if config.users:
        options.userns_options.CopyFrom(common.user_maps_message(config.users, config.groups_map))
    return options
