"""The daemon's configuration: a TOML file, with the command line on top. Everything has a default; an unknown key is an error.

root = "/var/lib/moorage"            # images, layers, containers, the database
state = "/run/moorage"               # sockets
listen = ["unix:///run/moorage/moorage.sock"]
graph_driver = "auto"                # overlay, btrfs, vfs
log_level = "info"
metrics = "127.0.0.1:9323"           # Prometheus; empty for none
channelz = false
spares = 2                           # pods forked ahead, to be up sooner
[overlay]                            # of graph driver overlay
volatile = "auto"                    # never synced: containers that nothing starts again; always, never
metacopy = false                     # copy no data up for a new owner or mode; no commit then
xattrs = "auto"                      # where overlay keeps its marks: trusted, user
[network]
pool = "10.210.0.0/16"               # networks get their subnets from it
subnet_prefix = 20
pods = "bridge"                      # what pods join: our bridge, or "cni"
cni_conf_dir = "/etc/cni/net.d"
cni_bin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
[tls]                                # for tcp://
ca = "/etc/moorage/ca.pem"
cert = "/etc/moorage/cert.pem"
key = "/etc/moorage/key.pem"
[cri]                                # Kubernetes' runtime.v1, on the same addresses
stream_address = "127.0.0.1:0"       # exec, attach and port-forward; port 0: any free one
stream_advertise = ""                # host[:port] for URLs instead of it
stream_cert = ""                     # PEM files: with both it serves TLS; without, loopback only
stream_key = ""
cgroup_driver = "cgroupfs"           # how cgroup_parent is meant
runtime_handlers = ["moorage"]       # besides ""
pinned_images = []                   # never collected by a kubelet
[runtimes.runc] …                    # OCI runtimes beside our own, see execdriver/runtimeoptions.py
[registry] …                         # see registry/config.py
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from moorage.server.errors import FailedPrecondition, InvalidArgument
from moorage.server.execdriver import runtimeoptions
from moorage.server.execdriver.runtimeoptions import OciRuntime
from moorage.server.graph.overlayoptions import DEFAULTS, VOLATILE, XATTRS, OverlayOptions
from moorage.server.registry import config as registry

DEFAULT_ROOT = "/var/lib/moorage"
MAX_SPARES = 64
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Tls:
    """Paths of PEM files. Clients must show a certificate that `ca` signed."""

    ca: str = ""
    cert: str = ""
    key: str = ""

    @property
    def complete(self) -> bool:
        return bool(self.ca and self.cert and self.key)


@dataclass(frozen=True)
class NetworkConfig:
    """Networks get their subnets from pieces of `subnet_prefix` of `pool`; empty and 0 leave the choice to the driver.

    `pods` is the network that pods join, `bridge` or `cni`; for that the directories of its configuration and its plugins.
    """

    pool: str = ""
    subnet_prefix: int = 0
    pods: str = "bridge"
    cni_conf_dir: str = "/etc/cni/net.d"
    cni_bin_dirs: tuple[str, ...] = ("/opt/cni/bin", "/usr/lib/cni")


@dataclass(frozen=True)
class Cri:
    """Kubernetes' container runtime interface. See the module's docstring."""

    stream_address: str = "127.0.0.1:0"
    stream_advertise: str = ""
    stream_cert: str = ""
    stream_key: str = ""
    cgroup_driver: str = "cgroupfs"
    runtime_handlers: tuple[str, ...] = ("moorage",)
    pinned_images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """See the module's docstring."""

    root: str = DEFAULT_ROOT
    state: str = "/run/moorage"
    listen: tuple[str, ...] = ()
    graph_driver: str = "auto"
    log_level: str = "info"
    log_format: str = "logfmt"
    metrics: str = ""
    channelz: bool = False
    spares: int = 2
    insecure_loopback: bool = False
    shutdown_seconds: int = 10
    overlay: OverlayOptions = DEFAULTS
    network: NetworkConfig = NetworkConfig()
    tls: Tls = Tls()
    cri: Cri = Cri()
    runtimes: tuple[OciRuntime, ...] = ()
    registry: registry.RegistryConfig = field(default_factory=registry.RegistryConfig)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to listen."""
        return self.listen or (f"unix://{self.state}/moorage.sock",)

    @property
    def instance(self) -> str:
        """The name that this root's bridge, nft table and cgroups carry, so that daemons with different roots live side by side."""
        root = str(Path(self.root).resolve())
        if root == DEFAULT_ROOT:
            return "moorage"
        return "moorage" + hashlib.sha256(root.encode()).hexdigest()[:6]


def load(path: str | None, overrides: Mapping[str, Any]) -> Config:
    """The file's settings with the command line's on top. Raises InvalidArgument naming file and key."""
    table: dict[str, Any] = {}
    if path:
        try:
            table = tomllib.loads(Path(path).read_text())
        except OSError as error:
            raise FailedPrecondition(f"cannot read configuration {path}: {error.strerror}", path=path) from error
        except tomllib.TOMLDecodeError as error:
            raise InvalidArgument(f"cannot read configuration {path}: {error}", path=path) from error
    config = _from_table(table, path or "defaults")
    return _checked(replace(config, **{key: value for key, value in overrides.items() if value is not None}))


def _from_table(table: dict[str, Any], where: str) -> Config:
    table = dict(table)
    parts: dict[str, Any] = {
        "overlay": _section(OverlayOptions, table.pop("overlay", {}), f"{where}: [overlay]"),
        "network": _section(NetworkConfig, table.pop("network", {}), f"{where}: [network]"),
        "tls": _section(Tls, table.pop("tls", {}), f"{where}: [tls]"),
        "cri": _section(Cri, table.pop("cri", {}), f"{where}: [cri]"),
        "runtimes": runtimeoptions.from_toml(table.pop("runtimes", {})),
        "registry": registry.from_toml(table.pop("registry", {})),
    }
    plain: Config = _section(Config, table, where)
    return replace(plain, **parts)


def _section(cls: type[Any], table: Any, where: str) -> Any:
    if not isinstance(table, dict):
        raise InvalidArgument(f"{where}: must be a table")
    known = {f.name: type(f.default) for f in fields(cls) if isinstance(f.default, str | int | bool | tuple)}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    for key, value in given.items():
        if key not in known:
            raise InvalidArgument(f"{where}: unknown key {key!r}", hint=f"known keys: {', '.join(sorted(known))}")
        if type(value) is not known[key]:
            raise InvalidArgument(f"{where}: {key} must be {known[key].__name__}, not {type(value).__name__}")
        if isinstance(value, tuple) and not all(isinstance(item, str) for item in value):
            raise InvalidArgument(f"{where}: {key} must be a list of strings")
    return cls(**given)


def _checked(config: Config) -> Config:
    if config.log_level not in LOG_LEVELS:
        raise InvalidArgument(f"log_level must be one of {', '.join(LOG_LEVELS)}, not {config.log_level!r}")
    if config.log_format not in ("logfmt", "json"):
        raise InvalidArgument(f"log_format must be logfmt or json, not {config.log_format!r}")
    for key in ("root", "state"):
        if not getattr(config, key).startswith("/"):
            raise InvalidArgument(f"{key} must be an absolute path, not {getattr(config, key)!r}")
    for key, allowed in (("volatile", VOLATILE), ("xattrs", XATTRS)):
        if getattr(config.overlay, key) not in allowed:
            given = getattr(config.overlay, key)
            raise InvalidArgument(f"[overlay] {key} must be one of {', '.join(allowed)}, not {given!r}")
    if config.network.pods not in ("bridge", "cni"):
        raise InvalidArgument(f"[network] pods must be bridge or cni, not {config.network.pods!r}")
    if config.cri.cgroup_driver != "cgroupfs":
        raise InvalidArgument(f"[cri] cgroup_driver must be cgroupfs, not {config.cri.cgroup_driver!r}")
    for runtime in config.runtimes:
        if runtime.name in config.cri.runtime_handlers:
            raise InvalidArgument(f"[cri] runtime_handlers: {runtime.name!r} is that of [runtimes.{runtime.name}]")
    if bool(config.cri.stream_cert) != bool(config.cri.stream_key):
        raise InvalidArgument("[cri] stream_cert and stream_key go together")
    if not 0 <= config.spares <= MAX_SPARES:
        raise InvalidArgument(f"spares must be 0 to {MAX_SPARES}, not {config.spares}")
    return config
