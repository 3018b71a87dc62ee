"""From a container to its OCI runtime-spec config (version 1.2), with Docker's defaults.

`check` looks at what a caller asked for before anything is made; `build` and `exec_process` then cannot fail on it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from moorage.server.execdriver import mounts
from moorage.server.execdriver.check import check, check_process, parse_signal
from moorage.server.graph.drivers.base import RootfsMount
from moorage.server.libcontainer import capabilities, cgroups
from moorage.server.libcontainer.seccomp_default import default_profile
from moorage.server.model import Container, PodConfig, Resources, Security

__all__ = ["build", "check", "exec_process", "limits", "parse_signal", "pod_sysctls"]

VERSION = "1.2.0"
CPU_PERIOD_US = 100_000

MASKED_PATHS = """
    /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi
    /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware
"""
READONLY_PATHS = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger"

# (character device) null, zero, full, random, urandom, tty, console, ptmx; and the major number of every pseudo-terminal
CONTAINER_DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2))
_PSEUDO_TERMINALS = 136

# What lets a user without privileges listen on port 80, and ping.
NETWORK_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


def build(
    container: Container,
    *,
    cgroup_path: str,
    hosts_path: str,
    resolv_conf_path: str,
    hostname_path: str,
    hostname: str,
    pod: PodConfig | None = None,
    images: Sequence[Sequence[RootfsMount]] = (),
) -> dict[str, Any]:
    """The complete config of a container; `pod` is that it shares, `images` are the mounts that show those it mounts.

    The pod holds network, IPC, UTS and user namespaces, so those are not named in it, nor are their sysctls; `cgroup_path` is
    below each hierarchy's root. Raises
    InvalidArgument for what the image brought in and `check` has not seen: user, environment, directory, stop signal.
    """
    check_process(container.command, container.env, container.cwd or "/", container.user)
    parse_signal(container.stop_signal or "SIGTERM")
    config, privileged = container.config, container.config.security.privileged
    bounding = _capabilities(config.security)
    files = {"/etc/hosts": hosts_path, "/etc/resolv.conf": resolv_conf_path, "/etc/hostname": hostname_path}
    devices = mounts.devices(config.devices)
    spec: dict[str, Any] = {
        "ociVersion": VERSION,
        "process": _process(
            container,
            config.security,
            args=container.command,
            env=_env(container.env, hostname, config.tty),
            cwd=container.cwd or "/",
            user=container.user,
            tty=config.tty,
            bounding=bounding,
        ),
        "root": {"path": "rootfs", "readonly": config.read_only},
        "mounts": mounts.build(config, files, pod, images),
        "annotations": dict(config.annotations),
        "linux": {
            "namespaces": [{"type": kind} for kind in _namespaces(config.pid)],
            "cgroupsPath": cgroup_path,
            "resources": {**limits(config.resources), "devices": _device_rules(privileged, devices)},
            "devices": list(mounts.host_devices(Path("/dev"))) if privileged else [each for each, _access in devices],
            "maskedPaths": _paths(config.security.masked_paths, MASKED_PATHS, privileged),
            "readonlyPaths": _paths(config.security.readonly_paths, READONLY_PATHS, privileged),
        },
    }
    if pod is not None and pod.users:
        spec["linux"]["uidMappings"] = mounts.id_mappings(pod.users)
        spec["linux"]["gidMappings"] = mounts.id_mappings(pod.groups_map or pod.users)
    seccomp = _seccomp(config.security, bounding)
    if seccomp is not None:
        spec["linux"]["seccomp"] = seccomp
    return spec


def _paths(given: Sequence[str] | None, usual: str, privileged: bool) -> list[str]:
    if privileged:
        return []
    return usual.split() if given is None else list(given)


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
    security = replace(config.security, privileged=True) if privileged else config.security
    hostname = config.hostname or (socket.gethostname() if config.network.network == "host" else container.id[:12])
    return _process(
        container,
        security,
        args=command,
        env=_env((*container.env, *env), hostname, tty),
        cwd=cwd or container.cwd or "/",
        user=user or container.user,
        tty=tty,
        bounding=_capabilities(security),
    )


def _process(
    container: Container,
    security: Security,
    *,
    args: Sequence[str],
    env: list[str],
    cwd: str,
    user: str,
    tty: bool,
    bounding: frozenset[str],
) -> dict[str, Any]:
    names = [name for name in capabilities.ALL if name in bounding]
    resources = container.config.resources
    ambient = [name for name in names if name in _names(security.cap_ambient)]
    process: dict[str, Any] = {
        "terminal": tty,
        "user": _user(user, security, bool(container.pod_id)),
        "args": list(args),
        "env": env,
        "cwd": cwd,
        # Nothing inheritable but what is ambient: a program with inheritable file capabilities must not gain any by it.
        "capabilities": {
            "bounding": names,
            "effective": names,
            "permitted": names,
            "inheritable": ambient,
            "ambient": ambient,
        },
        "noNewPrivileges": not (security.allow_new_privileges or security.privileged),
        "rlimits": [
            {"type": f"RLIMIT_{each.name.upper()}", "soft": each.soft, "hard": each.hard} for each in resources.rlimits
        ],
    }
    if resources.oom_score_adj is not None:
        process["oomScoreAdj"] = resources.oom_score_adj
    if security.apparmor_profile:
        process["apparmorProfile"] = security.apparmor_profile
    if security.selinux_label:
        process["selinuxLabel"] = security.selinux_label
    return process


def _user(user: str, security: Security, shared: bool) -> dict[str, Any]:
    """`username` decides, as also a number has a main group and further ones; the numbers are for who cannot look it up.

    `groups` is not of OCI: `merge` adds the groups of the group file also beside a main group that was named, `strict` never does.
    """
    name, _, group = (user or "0").partition(":")
    found: dict[str, Any] = {
        "uid": int(name) if name.isdecimal() else 0,
        "gid": int(group) if group.isdecimal() else 0,
        "username": user or "0",
    }
    if security.groups:
        found["additionalGids"] = list(security.groups)
    if security.strict_groups or shared:
        found["groups"] = "strict" if security.strict_groups else "merge"
    return found


def _env(env: Sequence[str], hostname: str, tty: bool) -> list[str]:
    """`env` over the defaults; of a name given twice the last counts."""
    defaults = [f"HOSTNAME={hostname}", *(["TERM=xterm"] if tty else [])]
    return list({entry.partition("=")[0]: entry for entry in (*defaults, *env)}.values())


def _namespaces(pid: str) -> list[str]:
    # On version 1 a cgroup namespace hides little, and the mounts in it would be the host's.
    return [
        *(["pid"] if pid != "host" else []),
        "mount",
        *(["cgroup"] if _cgroup_version() == 2 else []),
    ]


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


# --- resources and devices --------------------------------------------------------------------------------------------


def limits(resources: Resources) -> dict[str, Any]:
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
    if resources.cpu_quota or resources.cpu_period:
        cpu |= {"quota": resources.cpu_quota, "period": resources.cpu_period or CPU_PERIOD_US}
    cpu = {key: value for key, value in cpu.items() if value}
    if cpu:
        found["cpu"] = cpu
    if resources.pids:
        found["pids"] = {"limit": resources.pids}
    if hugepages := [{"pageSize": size, "limit": limit} for size, limit in resources.hugepages if limit]:
        found["hugepageLimits"] = hugepages
    if resources.unified:
        found["unified"] = dict(resources.unified)
    return found


def _device_rules(privileged: bool, devices: Sequence[tuple[Mapping[str, Any], str]]) -> list[dict[str, Any]]:
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    # Making any node is harmless as long as it cannot be opened, and archives hold device nodes.
    rules += [{"allow": True, "type": kind, "access": "m"} for kind in "cb"]
    for major, minor in CONTAINER_DEVICES:
        rules.append({"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"})
    # Without a minor number it is all of them; crun knows no -1.
    rules.append({"allow": True, "type": "c", "major": _PSEUDO_TERMINALS, "access": "rwm"})
    for device, access in devices:
        rules.append({"allow": True, "access": access, **{key: device[key] for key in ("type", "major", "minor")}})
    return rules
