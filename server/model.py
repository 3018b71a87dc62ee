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
class Mount:
    """A mount a container asked for."""

    kind: Literal["bind", "tmpfs"]
    target: str
    source: str = ""
    read_only: bool = False
    size: int = 0
    propagation: str = ""


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


@dataclass(frozen=True)
class Security:
    """What a container may do."""

    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    allow_new_privileges: bool = False
    seccomp_profile: str = ""


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
    """How output is kept."""

    max_size: int = 64 << 20
    max_files: int = 3


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
    endpoint: Endpoint | None = None
    exit: ExitStatus | None = None


@dataclass(frozen=True)
class Network:
    """A network as the GraphDB keeps it."""

    id: str
    name: str
    driver: Literal["bridge", "host", "none"]
    created_ns: int
    subnet: str = ""
    gateway: str = ""
    bridge: str = ""
    internal: bool = False
    labels: dict[str, str] = field(default_factory=dict)


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
