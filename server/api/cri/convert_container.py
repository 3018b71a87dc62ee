"""CRI's ContainerConfig to the engine's, and containers back to CRI's messages."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from typing import Any

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api.cri import common
from moorage.server.api.cri.convert_mounts import mount, mount_message
from moorage.server.errors import InvalidArgument, Unimplemented
from moorage.server.model import (
    Container,
    ContainerConfig,
    Device,
    ExitStatus,
    Image,
    LogConfig,
    PodRecord,
    Resources,
    Security,
)

STATES = {
    "created": pb.CONTAINER_CREATED,
    "starting": pb.CONTAINER_CREATED,
    "running": pb.CONTAINER_RUNNING,
    "exited": pb.CONTAINER_EXITED,
    "removing": pb.CONTAINER_EXITED,
}
_PIDS = {"": pb.CONTAINER, "host": pb.NODE, "pod": pb.POD}
START_ERROR_CODE = 128
_UNKNOWN_END = ExitStatus(255, 0, reason="Unknown")
_PLAIN_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_DEVICE_PERMISSIONS = re.compile(r"[rwm]{1,3}")


def container_name(metadata: pb.ContainerMetadata, pod: PodRecord) -> str:
    """The name under which the store holds a container, so that each attempt exists once in a pod.

    `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>` where that is a name and unambiguous, else its beginning and a digest.
    """
    parts = (metadata.name, pod.config.name, pod.config.namespace, pod.config.uid, str(metadata.attempt))
    plain = "_".join(("k8s", *parts))
    if _PLAIN_NAME.fullmatch(plain) and not any("_" in part for part in parts):
        return plain
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    start = re.sub(r"[^a-zA-Z0-9.-]+", "-", metadata.name)[:60]
    return f"k8s_{start}_{digest[:40]}"


def container_config(message: pb.ContainerConfig, pod: PodRecord) -> ContainerConfig:
    """What a container is asked to be. Makes host paths that are missing, reads its seccomp profile. Raises InvalidArgument."""
    if not message.metadata.name:
        raise InvalidArgument("a container needs metadata with a name", field="config.metadata.name")
    if message.CDI_devices:
        raise Unimplemented("CDI devices are not offered", field="config.CDI_devices")
    security = message.linux.security_context
    _agree(security, pod)
    return ContainerConfig(
        image=message.image.image,
        entrypoint=tuple(message.command),
        command=tuple(message.args),
        env=tuple(_env(each) for each in message.envs),
        working_dir=message.working_dir,
        user=common.user(security),
        tty=message.tty,
        stdin_open=message.stdin,
        stdin_once=message.stdin_once,
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        stop_signal=common.SIGNALS.get(message.stop_signal, ""),
        resources=_resources(message.linux),
        security=_security(message.linux),
        log=LogConfig(max_size=0, path=_log_path(message.log_path, pod)),
        read_only=security.readonly_rootfs,
        devices=tuple(_device(each) for each in message.devices),
        pid=_pid(security.namespace_options),
        metadata_name=message.metadata.name,
        metadata_attempt=message.metadata.attempt,
        mounts=_mounts(message.mounts),
    )


def _agree(security: pb.LinuxContainerSecurityContext, pod: PodRecord) -> None:
    """A container is in its pod's user namespace, and may say so."""
    options = security.namespace_options
    if options.HasField("userns_options"):
        users = common.user_maps(options.userns_options)
        if users != (pod.config.users, pod.config.groups_map):
            raise InvalidArgument("the container's user namespace is not the pod's", field="userns_options")
    if pod.config.users and pod.config.runtime:
        common.check_pid_of_mapped(options.pid, pod.config.runtime_handler)


def _env(message: pb.KeyValue) -> str:
    try:
        return f"{message.key}={message.value.decode()}"
    except UnicodeDecodeError:
        raise InvalidArgument(f"environment variable {message.key!r} is not UTF-8", field="config.envs") from None


def _resources(message: pb.LinuxContainerConfig) -> Resources:
    return common.resources(message.resources) if message.HasField("resources") else Resources()


def _security(message: pb.LinuxContainerConfig) -> Security:
    context = message.security_context
    given = message.HasField("security_context")
    return Security(
        cap_add=tuple(context.capabilities.add_capabilities),
        cap_drop=tuple(context.capabilities.drop_capabilities),
        cap_ambient=tuple(context.capabilities.add_ambient_capabilities),
        privileged=context.privileged,
        allow_new_privileges=not context.no_new_privs,
        seccomp_profile=common.seccomp(context),
        apparmor_profile=common.apparmor(context),
        selinux_label=common.selinux(context.selinux_options),
        # An orchestrator that says nothing here wants none of them: it names the defaults itself.
        masked_paths=tuple(context.masked_paths) if given else None,
        readonly_paths=tuple(context.readonly_paths) if given else None,
        groups=common.groups(context),
        strict_groups=context.supplemental_groups_policy == pb.Strict,
    )


def _pid(options: pb.NamespaceOption) -> str:
    """Without options the mode is POD, the zero of the enumeration."""
    match options.pid:
        case pb.CONTAINER:
            return ""
        case pb.NODE:
            return "host"
        case pb.TARGET:
            if not options.target_id:
                raise InvalidArgument("the PID namespace of a target needs target_id", field="target_id")
            return options.target_id
    return "pod"


def _log_path(path: str, pod: PodRecord) -> str:
    """Absolute; empty, which leaves it to the daemon, unless both directory and name are given."""
    directory = pod.config.log_directory
    if not path or not directory:
        return ""
    if ".." in path.split("/") or "\0" in path:
        raise InvalidArgument(f"log_path {path!r} leaves the pod's log directory", field="config.log_path")
    return os.path.normpath(f"{directory}/{path}")


def _device(message: pb.Device) -> Device:
    permissions = message.permissions or "rwm"
    if not _DEVICE_PERMISSIONS.fullmatch(permissions):
        raise InvalidArgument(f"device permissions {permissions!r} are not of r, w and m", field="config.devices")
    if not message.host_path.startswith("/"):
        raise InvalidArgument(f"device {message.host_path!r} is not an absolute path", field="config.devices")
    return Device(message.host_path, message.container_path or message.host_path, permissions)


def _mounts(messages: Iterable[pb.Mount]) -> tuple[Any, ...]:
    """Parents before what is mounted inside them."""
    made = [mount(each) for each in messages]
    return tuple(sorted(made, key=lambda each: os.path.normpath(each.target).count("/")))


# --- outward ----------------------------------------------------------------------------------------------------------


def container_state(value: Container) -> pb.ContainerState:
    """One that is being started is still a created one to those outside."""
    return STATES[value.state]


def container_metadata(config: ContainerConfig) -> pb.ContainerMetadata:
    """What the orchestrator calls a container within its pod."""
    return pb.ContainerMetadata(name=config.metadata_name, attempt=config.metadata_attempt)


def container(value: Container) -> pb.Container:
    """A container in a list."""
    return pb.Container(
        id=value.id,
        pod_sandbox_id=value.pod_id,
        metadata=container_metadata(value.config),
        image=pb.ImageSpec(image=value.config.image),
        image_ref=value.image_id,
        image_id=value.image_id,
        state=container_state(value),
        created_at=value.created_ns,
        labels=value.config.labels,
        annotations=value.config.annotations,
    )


def listed(value: Container) -> bytes:
    """A list of this one alone, serialised: put one after the other, such lists are the list of all."""
    return pb.ListContainersResponse(containers=[container(value)]).SerializeToString()


def container_status(value: Container, recorded: bytes, *, image: Image | None) -> pb.ContainerStatus:
    """A container, whole: what `recorded_status` makes of its record, and what its image is called now.

    `image` is None when it has been removed.
    """
    status = pb.ContainerStatus.FromString(recorded)
    status.image.image = image.tags[0] if image and image.tags else value.config.image
    return status


def recorded_status(value: Container) -> bytes:
    """What a container's record says of its status, serialised."""
    config, end = value.config, _end(value)
    status = pb.ContainerStatus(
        id=value.id,
        metadata=container_metadata(config),
        state=container_state(value),
        created_at=value.created_ns,
        started_at=0 if container_state(value) == pb.CONTAINER_CREATED else value.started_ns,
        finished_at=end.finished_ns if end else 0,
        exit_code=end.exit_code if end else 0,
        reason=_reason(end) if end else "",
        message=end.error if end else "",
        image=pb.ImageSpec(user_specified_image=config.image, image_ref=value.image_id),
        image_ref=value.image_ref or value.image_id,
        image_id=value.image_id,
        labels=config.labels,
        annotations=config.annotations,
        mounts=_mount_messages(value),
        log_path=config.log.path,
        resources=pb.ContainerResources(linux=_effective(config.resources)),
        user=_user(value),
        stop_signal=common.signal_message(value.stop_signal or "SIGTERM"),
    )
    return status.SerializeToString()


def config_message(value: Container, pod: PodRecord) -> pb.ContainerConfig:
    """What was asked for, but for security profiles."""
    config = value.config
    return pb.ContainerConfig(
        metadata=container_metadata(config),
        image=pb.ImageSpec(image=config.image),
        command=config.entrypoint,
        args=config.command,
        working_dir=config.working_dir,
        envs=[_env_message(entry) for entry in config.env],
        mounts=_mount_messages(value),
        devices=[
            pb.Device(host_path=each.source, container_path=each.target, permissions=each.permissions)
            for each in config.devices
        ],
        labels=config.labels,
        annotations=config.annotations,
        log_path=config.log.path.removeprefix(f"{pod.config.log_directory}/"),
        stdin=config.stdin_open,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=pb.LinuxContainerConfig(
            resources=common.resources_message(config.resources), security_context=_security_message(config)
        ),
        stop_signal=common.signal_message(config.stop_signal),
    )


def _env_message(entry: str) -> pb.KeyValue:
    name, _, text = entry.partition("=")
    return pb.KeyValue(key=name, value=text.encode())


def _security_message(config: ContainerConfig) -> pb.LinuxContainerSecurityContext:
    security = config.security
    message = pb.LinuxContainerSecurityContext(
        privileged=security.privileged,
        readonly_rootfs=config.read_only,
        supplemental_groups=security.groups,
        no_new_privs=not security.allow_new_privileges,
        masked_paths=security.masked_paths,
        readonly_paths=security.readonly_paths,
        namespace_options=pb.NamespaceOption(pid=_PIDS.get(config.pid, pb.TARGET)),
    )
    common.fill_user(message, config.user)
    if message.namespace_options.pid == pb.TARGET:
        message.namespace_options.target_id = config.pid
    if security.cap_add or security.cap_drop or security.cap_ambient:
        message.capabilities.add_capabilities.extend(security.cap_add)
        message.capabilities.drop_capabilities.extend(security.cap_drop)
        message.capabilities.add_ambient_capabilities.extend(security.cap_ambient)
    return message


def _effective(limits: Resources) -> pb.LinuxContainerResources:
    """As they are in force: where nothing is said of swap there is none."""
    message = common.resources_message(limits)
    message.memory_swap_limit_in_bytes = limits.memory_swap or limits.memory
    return message


def _mount_messages(value: Container) -> list[pb.Mount]:
    """What CRI asked for, and for images which they are."""
    image_ids = iter(value.mounted_images)
    return [mount_message(each, next(image_ids, "") if each.kind == "image" else "") for each in value.config.mounts]


def _end(value: Container) -> ExitStatus | None:
    """How it ended, once it has. A command that never ran counts as 128, whatever a shell would say."""
    if container_state(value) != pb.CONTAINER_EXITED:
        return None
    end = value.exit or _UNKNOWN_END
    # A clock that was set back must not make it end before it began.
    finished = max(end.finished_ns, value.started_ns, value.created_ns)
    code = START_ERROR_CODE if end.reason == "StartError" else end.exit_code
    return ExitStatus(code, finished, end.oom_killed, end.reason, end.error)


def _reason(end: ExitStatus) -> str:
    if end.oom_killed:
        return "OOMKilled"
    return end.reason or ("Completed" if end.exit_code == 0 else "Error")


def _user(value: Container) -> pb.ContainerUser | None:
    """Whom it began as; that is known from its start on, as names are looked up in the container's own files."""
    identity = value.identity
    if identity is None:
        return None
    linux = pb.LinuxContainerUser(uid=identity.uid, gid=identity.gid, supplemental_groups=identity.groups)
    return pb.ContainerUser(linux=linux)
