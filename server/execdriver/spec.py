"""From a container to its OCI runtime-spec config (version 1.2), with Docker's defaults.

`check` looks at what a caller asked for before anything is made; `build` and `exec_process` then cannot fail on it.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from moorage.server.execdriver.check import check, check_process, parse_signal
from moorage.server.libcontainer import capabilities, cgroups
from moorage.server.libcontainer.seccomp_default import default_profile
from moorage.server.model import Container, Mount, Resources, Rlimit, Security

__all__ = ["build", "check", "exec_process", "parse_signal", "pod_sysctls"]

CPU_PERIOD_US = 100_000

MASKED_PATHS = """
    /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi
    /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware
"""
READONLY_PATHS = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger"

# (character device) null, zero, full, random, urandom, tty, console, ptmx and every pseudo-terminal
CONTAINER_DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, -1))

# What lets a user without privileges listen on port 80, and ping.
NETWORK_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}

# The container has its own of these.
NOT_HOST_DEVICES = frozenset({"console", "fd", "mqueue", "ptmx", "pts", "shm"})


def build(
    container: Container,
    *,
    cgroup_path: str,
    hosts_path: str,
    resolv_conf_path: str,
    hostname_path: str,
    hostname: str,
) -> dict[str, Any]:
    """The complete config of a container.

    The pod holds network, IPC and UTS namespaces, so those are not named in it, nor are their sysctls; `cgroup_path` is
    below each hierarchy's root. Raises
    InvalidArgument for what the image brought in and `check` has not seen: user, environment, directory, stop signal.
    """
    check_process(container.command, container.env, container.cwd or "/", container.user)
    parse_signal(container.stop_signal or "SIGTERM")
    config, privileged = container.config, container.config.security.privileged
    bounding = _capabilities(config.security)
    files = {"/etc/hosts": hosts_path, "/etc/resolv.conf": resolv_conf_path, "/etc/hostname": hostname_path}
    spec: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": _process(
            config.security,
            args=container.command,
            env=_env(container.env, hostname, config.tty),
            cwd=container.cwd or "/",
            user=container.user,
            tty=config.tty,
            rlimits=config.resources.rlimits,
            bounding=bounding,
        ),
        "root": {"path": "rootfs", "readonly": config.read_only},
        "mounts": _mounts(config.mounts, files, privileged),
        "linux": {
            "namespaces": [{"type": kind} for kind in _namespaces()],
            "cgroupsPath": cgroup_path,
            "resources": {**_resources(config.resources), "devices": _device_rules(privileged)},
            "devices": list(_host_devices(Path("/dev"))) if privileged else [],
            "maskedPaths": [] if privileged else MASKED_PATHS.split(),
            "readonlyPaths": [] if privileged else READONLY_PATHS.split(),
        },
    }
    seccomp = _seccomp(config.security, bounding)
    if seccomp is not None:
        spec["linux"]["seccomp"] = seccomp
    return spec


def pod_sysctls(host_network: bool) -> dict[str, str]:
    """What a pod is to set in its network namespace (`PodSpec.sysctls`); nothing where that is the host's."""
    return {} if host_network else dict(NETWORK_SYSCTLS)


def exec_process(
    container: Container,
    *,
    command: Sequence[str],
    env: Sequence[str],
    cwd: str,
    user: str,
    tty: bool,
    privileged: bool,
) -> dict[str, Any]:
    """The OCI `process` object of one more process; empty `cwd` and `user` are the container's, `env` is on top of its.

    Raises InvalidArgument.
    """
    check_process(command, env, cwd or container.cwd, user or container.user)
    config = container.config
    security = Security(privileged=True) if privileged else config.security
    hostname = config.hostname or (socket.gethostname() if config.network.network == "host" else container.id[:12])
    return _process(
        security,
        args=command,
        env=_env((*container.env, *env), hostname, tty),
        cwd=cwd or container.cwd or "/",
        user=user or container.user,
        tty=tty,
        rlimits=config.resources.rlimits,
        bounding=_capabilities(security),
    )


def _process(
    security: Security,
    *,
    args: Sequence[str],
    env: list[str],
    cwd: str,
    user: str,
    tty: bool,
    rlimits: Sequence[Rlimit],
    bounding: frozenset[str],
) -> dict[str, Any]:
    names = [name for name in capabilities.ALL if name in bounding]
    return {
        "terminal": tty,
        "user": _user(user),
        "args": list(args),
        "env": env,
        "cwd": cwd,
        # Nothing inheritable: a program with inheritable file capabilities must not gain any by it.
        "capabilities": {"bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": []},
        "noNewPrivileges": not (security.allow_new_privileges or security.privileged),
        "rlimits": [{"type": f"RLIMIT_{each.name.upper()}", "soft": each.soft, "hard": each.hard} for each in rlimits],
    }


def _user(user: str) -> dict[str, Any]:
    """`username` decides, as also a number has a main group and further ones; the numbers are for who cannot look it up."""
    name, _, group = (user or "0").partition(":")
    return {
        "uid": int(name) if name.isdecimal() else 0,
        "gid": int(group) if group.isdecimal() else 0,
        "username": user or "0",
    }


def _env(env: Sequence[str], hostname: str, tty: bool) -> list[str]:
    """`env` over the defaults; of a name given twice the last counts."""
    defaults = [f"HOSTNAME={hostname}", *(["TERM=xterm"] if tty else [])]
    return list({entry.partition("=")[0]: entry for entry in (*defaults, *env)}.values())


def _namespaces() -> list[str]:
    # On version 1 a cgroup namespace hides little, and the mounts in it would be the host's.
    return ["pid", "mount", "cgroup"] if _cgroup_version() == 2 else ["pid", "mount"]


@cache
def _cgroup_version() -> int:
    return cgroups.detect().version


def _capabilities(security: Security) -> frozenset[str]:
    """The bounding set: Docker's default, changed as asked, as far as this daemon has it to give."""
    if security.privileged:
        return capabilities.bounding_set()
    added, dropped = _names(security.cap_add), _names(security.cap_drop)
    base = capabilities.DEFAULT
    if "ALL" in dropped:
        base = frozenset()
    if "ALL" in added:
        base = frozenset(capabilities.ALL)
    return ((base | added) - dropped) & capabilities.bounding_set()


def _names(given: Sequence[str]) -> frozenset[str]:
    upper = {name.upper() for name in given}
    return frozenset(name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in upper)


def _seccomp(security: Security, bounding: frozenset[str]) -> dict[str, Any] | None:
    if security.seccomp_profile == "unconfined" or (security.privileged and not security.seccomp_profile):
        return None
    if security.seccomp_profile in ("", "default"):
        return _default_profile(bounding)
    profile: dict[str, Any] = json.loads(security.seccomp_profile)
    return profile


def default_seccomp() -> dict[str, Any]:
    """The profile that most containers get: worth compiling before the first one starts."""
    return _default_profile(capabilities.DEFAULT & capabilities.bounding_set())


@cache
def _default_profile(bounding: frozenset[str]) -> dict[str, Any]:
    """Shared by all containers with these capabilities: not to be changed."""
    return default_profile(bounding)


# --- mounts -----------------------------------------------------------------------------------------------------------


def _mounts(asked: Sequence[Mount], files: Mapping[str, str], privileged: bool) -> list[dict[str, Any]]:
    """The defaults, then what was asked for with the outer before the inner; what was asked for takes a default's place."""
    targets = {os.path.normpath(mount.target) for mount in asked}
    hidden = {*targets, *(each["destination"] for each in DEFAULT_MOUNTS if _is_below(each["destination"], targets))}
    defaults = [_default(each, privileged) for each in DEFAULT_MOUNTS if each["destination"] not in hidden]
    bound = [_bind(target, source) for target, source in files.items() if target not in targets]
    own = [_mount(mount) for mount in asked]
    return defaults + sorted(bound + own, key=lambda each: each["destination"].count("/"))


def _is_below(path: str, directories: set[str]) -> bool:
    return any(path.startswith(f"{directory}/") for directory in directories)


def _entry(destination: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source or kind, "options": list(options)}


DEFAULT_MOUNTS = (
    _entry("/proc", "proc", "nosuid", "noexec", "nodev"),
    _entry("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    _entry("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    _entry("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k", source="shm"),
    _entry("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    _entry("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
    _entry("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "ro"),
)


def _default(entry: Mapping[str, Any], privileged: bool) -> dict[str, Any]:
    return {**entry, "options": [option for option in entry["options"] if not (privileged and option == "ro")]}


def _bind(target: str, source: str, *options: str) -> dict[str, Any]:
    return _entry(target, "bind", "rbind", *(options or ("rprivate",)), source=source)


def _mount(mount: Mount) -> dict[str, Any]:
    target = os.path.normpath(mount.target)
    read_only = ["ro"] if mount.read_only else []
    if mount.kind == "bind":
        # Also what is mounted below the source is read-only then, not only the source.
        deep = ["rro"] if mount.read_only else []
        return _bind(target, mount.source, mount.propagation or "rprivate", *read_only, *deep)
    size = [f"size={mount.size}"] if mount.size else []
    return _entry(target, "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", *size, *read_only)


# --- resources and devices --------------------------------------------------------------------------------------------


def _resources(resources: Resources) -> dict[str, Any]:
    """OCI `linux.resources` without devices; what is not limited is left out."""
    found: dict[str, Any] = {}
    if resources.memory:
        # Without a word about swap there is none: the limit on both together is the one on memory.
        found["memory"] = {"limit": resources.memory, "swap": resources.memory_swap or resources.memory}
    cpu: dict[str, Any] = {
        "shares": resources.cpu_shares,
        "cpus": resources.cpuset_cpus,
        "mems": resources.cpuset_mems,
    }
    if resources.cpu_nanos:
        cpu |= {"quota": resources.cpu_nanos * CPU_PERIOD_US // 1_000_000_000, "period": CPU_PERIOD_US}
    cpu = {key: value for key, value in cpu.items() if value}
    if cpu:
        found["cpu"] = cpu
    if resources.pids:
        found["pids"] = {"limit": resources.pids}
    return found


def _device_rules(privileged: bool) -> list[dict[str, Any]]:
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    # Making any node is harmless as long as it cannot be opened, and archives hold device nodes.
    rules += [{"allow": True, "type": kind, "access": "m"} for kind in "cb"]
    for major, minor in CONTAINER_DEVICES:
        rules.append({"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"})
    return rules


def _host_devices(directory: Path) -> Iterator[dict[str, Any]]:
    """OCI `linux.devices` for every device node of the host."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in NOT_HOST_DEVICES:
                yield from _host_devices(directory / entry.name)
            continue
        status = entry.stat(follow_symlinks=False)
        kind = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(status.st_mode))
        if kind and entry.name not in NOT_HOST_DEVICES:
            yield {
                "path": entry.path,
                "type": kind,
                "major": os.major(status.st_rdev),
                "minor": os.minor(status.st_rdev),
                "fileMode": stat.S_IMODE(status.st_mode),
                "uid": status.st_uid,
                "gid": status.st_gid,
            }
