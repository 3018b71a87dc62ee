"""What the rooms of the house tell one another: frozen dataclasses, no behaviour.

Times are nanoseconds since the epoch (`*_ns`), sizes bytes, unless a name says otherwise. Protobuf types stop in `api/`; the rows of
the GraphDB are these classes as JSON. `libcontainer` and `supervisor` know nothing of this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Platform:
    """OCI image index, "platform"."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""


@dataclass(frozen=True)
class ImageConfig:
    """The part of an image's config that containers inherit (OCI image spec, config.md)."""

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    working_dir: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """An unpacked layer. `chain_id` and `diff_id` are digests (`sha256:…`); `parent` is the chain ID below, empty at the base."""

    chain_id: str
    diff_id: str
    parent: str
    size: int


@dataclass(frozen=True)
class LayerBlob:
    """A layer as registries and archives hold it: a tar, compressed as `media_type` says. `size` is the blob's own."""

    digest: str
    media_type: str
    size: int
    diff_id: str


@dataclass(frozen=True)
class Image:
    """An image of the graph. `id` is the digest of its config."""

    id: str
    created_ns: int
    platform: Platform
    config: ImageConfig
    layers: tuple[Layer, ...]
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True)
class DiskUsage:
    """What a tree of files takes on the disk."""

    bytes: int
    inodes: int


@dataclass(frozen=True)
class IdMap:
    """A range of IDs of a user namespace: `length` IDs from `container` on inside are those from `host` on outside."""

    container: int
    host: int
    length: int


@dataclass(frozen=True)
class Mount:
    """A mount a container asked for. `source` is a host path (bind) or an image (image).

    `recursive_read_only` makes every mount below it read-only too; `id_map` shifts owners (user namespaces); `sub_path` is a directory
    inside the image.
    """

    kind: Literal["bind", "tmpfs", "image"]
    target: str
    source: str = ""
    read_only: bool = False
    size: int = 0
    propagation: str = ""
    recursive_read_only: bool = False
    id_map: tuple[IdMap, ...] = ()
    sub_path: str = ""


@dataclass(frozen=True)
class Device:
    """A host device to show inside; `permissions` of `rwm`."""

    source: str
    target: str
    permissions: str = "rwm"


@dataclass(frozen=True)
class Rlimit:
    """setrlimit(2); -1 is infinity."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True)
class Resources:
    """Limits; 0 or empty means none. See `moorage.v1.Resources`."""

    memory: int = 0
    memory_swap: int = 0
    cpu_nanos: int = 0
    cpu_shares: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int = 0
    rlimits: tuple[Rlimit, ...] = ()
    cpu_period: int = 0
    cpu_quota: int = 0
    oom_score_adj: int | None = None
    hugepages: tuple[tuple[str, int], ...] = ()
    unified: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Security:
    """What a container may do."""

    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    allow_new_privileges: bool = False
    seccomp_profile: str = ""
    cap_ambient: tuple[str, ...] = ()
    apparmor_profile: str = ""
    selinux_label: str = ""
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    groups: tuple[int, ...] = ()
    """Supplementary groups on top of those that `strict_groups` leaves: False adds the user's own of /etc/group, True does not."""
    strict_groups: bool = False


@dataclass(frozen=True)
class PortMapping:
    """A port of the host that leads to a port of a container. `host_port` 0: have one chosen."""

    container_port: int
    host_port: int = 0
    host_ip: str = ""
    protocol: Literal["tcp", "udp"] = "tcp"


@dataclass(frozen=True)
class NetworkAttachment:
    """How a container meets the network."""

    network: str = "bridge"
    ports: tuple[PortMapping, ...] = ()
    dns_servers: tuple[str, ...] = ()
    dns_searches: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class LogConfig:
    """How output is kept. `path` empty: in the daemon's own directory; `max_size` 0: never rotated by us."""

    max_size: int = 64 << 20
    max_files: int = 3
    path: str = ""


@dataclass(frozen=True)
class ContainerConfig:
    """What a container is made of, as asked for (nothing of the image merged in). See `moorage.v1.ContainerConfig`."""

    image: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    tty: bool = False
    stdin_open: bool = False
    stdin_once: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    stop_timeout: int | None = None
    mounts: tuple[Mount, ...] = ()
    resources: Resources = Resources()
    security: Security = Security()
    network: NetworkAttachment = NetworkAttachment()
    init: bool = False
    auto_remove: bool = False
    log: LogConfig = LogConfig()
    read_only: bool = False
    rootfs_size: int = 0
    """The most that it may write to its root file system, 0 for no limit."""
    runtime: str = ""
    """The OCI runtime to make it with, empty for our own way; that of one in a pod is the pod's."""
    annotations: dict[str, str] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    pid: str = ""
    """PID namespace: empty for its own, `pod`, `host`, or the ID of a container of the same pod to share with."""
    metadata_name: str = ""
    metadata_attempt: int = 0
    """What an orchestrator calls it within its pod."""


@dataclass(frozen=True)
class Endpoint:
    """A container's place in a network. Addresses are `1.2.3.4/20`."""

    network: str
    network_id: str
    address: str = ""
    gateway: str = ""
    mac_address: str = ""
    host_interface: str = ""
    interface: str = "eth0"
    mtu: int = 1500
    ports: tuple[PortMapping, ...] = ()


@dataclass(frozen=True)
class ExitStatus:
    """How a container's first process ended. `reason`: Completed, Error, OOMKilled, StartError, Unknown."""

    exit_code: int
    finished_ns: int
    oom_killed: bool = False
    reason: str = ""
    error: str = ""


State = Literal["created", "starting", "running", "exited", "removing"]


@dataclass(frozen=True)
class Identity:
    """Whom a process runs as, in numbers of the container's own user namespace."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Container:
    """A container as the GraphDB keeps it.

    `starting` and `removing` are written before the side effects and so are the intent that start-up reconciles.
    `image_id` stays when the image's names change; `command`, `env`, `user`, `cwd` and `stop_signal` are image and config merged at create.
    """

    id: str
    name: str
    image_id: str
    config: ContainerConfig
    command: tuple[str, ...]
    env: tuple[str, ...]
    user: str
    cwd: str
    stop_signal: str
    state: State
    created_ns: int
    started_ns: int = 0
    pid: int = 0
    identity: Identity | None = None
    """Whom its first process began as, at its last start."""
    endpoint: Endpoint | None = None
    exit: ExitStatus | None = None
    pod_id: str = ""
    """The pod it belongs to; empty when it is one of its own, with the same ID."""
    image_ref: str = ""
    """The image by repository and digest as it was called when the container was made; its ID where it had no such name."""
    mounted_images: tuple[str, ...] = ()
    """IDs of the images that its mounts of kind `image` show, in their order."""
    transient: bool = False
    """Made by a build for one step: its root file system is the builder's, and it does not outlive the daemon."""

    @property
    def pod(self) -> str:
        """ID of the pod it runs in, whether that is its own or one that it shares."""
        return self.pod_id or self.id


PodState = Literal["starting", "ready", "notready", "removing"]


@dataclass(frozen=True)
class PodConfig:
    """What a pod is asked to be (CRI's PodSandboxConfig).

    `name`, `namespace`, `uid` and `attempt` together are unique. `network`, `ipc` are `pod` or `host`; `pid` is `container` (one each),
    `pod` (shared) or `host`. `users` maps a user namespace of the pod's own. `cgroup_parent` is below each hierarchy's root.
    """

    name: str
    namespace: str
    uid: str
    attempt: int = 0
    hostname: str = ""
    log_directory: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    runtime_handler: str = ""
    runtime: str = ""
    """The OCI runtime that the handler stands for, empty for our own way."""
    cgroup_parent: str = ""
    sysctls: dict[str, str] = field(default_factory=dict)
    attachment: NetworkAttachment = NetworkAttachment()
    dns: bool = False
    """Whether `attachment`'s DNS settings are to be taken exactly as they are, instead of the host's."""
    network: Literal["pod", "host"] = "pod"
    ipc: Literal["pod", "host"] = "pod"
    pid: str = "pod"
    users: tuple[IdMap, ...] = ()
    groups_map: tuple[IdMap, ...] = ()
    security: Security = Security()
    user: str = ""
    resources: Resources = Resources()
    overhead: Resources = Resources()


@dataclass(frozen=True)
class PodRecord:
    """A pod as the GraphDB keeps it. `starting` and `removing` are intents, as for containers."""

    id: str
    config: PodConfig
    state: PodState
    created_ns: int
    endpoint: Endpoint | None = None
    pid: int = 0
    """Its supervisor."""
    held: bool = True
    """Whether something of it may be left on the host: namespaces, network, cgroup."""


@dataclass(frozen=True)
class Network:
    """A network as the GraphDB keeps it."""

    id: str
    name: str
    driver: Literal["bridge", "host", "none", "cni"]
    created_ns: int
    subnet: str = ""
    gateway: str = ""
    bridge: str = ""
    internal: bool = False
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class IndexEntry:
    """One image of an index: its manifest's digest and size, what it runs on, and the repository to have it from ("" for none)."""

    digest: str
    size: int
    platform: Platform
    source: str = ""


@dataclass(frozen=True)
class ImageIndex:
    """An index that was made here (OCI image spec, image-index.md). `raw` is the document, `digest` its digest."""

    name: str
    digest: str
    media_type: str
    raw: str
    entries: tuple[IndexEntry, ...]


@dataclass(frozen=True)
class Event:
    """One thing that happened; `sequence` counts up for good."""

    sequence: int
    time_ns: int
    kind: str
    action: str
    id: str
    name: str
    attributes: dict[str, str] = field(default_factory=dict)
