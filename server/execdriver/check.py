"""What is asked of a container, checked before anything is made: every refusal names the field, the value and the cause."""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import re
import signal
from collections.abc import Sequence
from functools import cache
from typing import NoReturn

from moorage.server.errors import InvalidArgument
from moorage.server.execdriver import mounts
from moorage.server.libcontainer import capabilities, seccomp, syscalls
from moorage.server.model import (
    ContainerConfig,
    Device,
    IdMap,
    LogConfig,
    Mount,
    NetworkAttachment,
    PodConfig,
    Resources,
    Rlimit,
    Security,
)

MIN_MEMORY = 2 << 20
"""A start needs 1.5 MiB of its container's."""
"""Below it a container cannot even start its first process."""
MIN_CPU_NANOS = 10_000_000
"""The kernel's smallest quota, a millisecond, in each period of 100."""
CPU_SHARES = range(2, 262145)
MAX_INT64 = (1 << 63) - 1
MAX_ID = (1 << 31) - 1
MAX_SECCOMP_SIZE = 256 << 10
MAX_ENVIRONMENT = 1 << 20
HOST_NAME_MAX = 64

RLIMITS = frozenset(
    [
        *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue"),
        *("nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
    ]
)
PROPAGATIONS = frozenset({"", "private", "rprivate", "slave", "rslave", "shared", "rshared"})

PROC_TARGETS = frozenset(
    f"/proc/{name}" for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime")
)
"""Files that may be mounted over, to show a container its own share of the machine; all else in /proc is the kernel's."""

LABEL = "[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?"
HOST_NAME = re.compile(rf"{LABEL}(\.{LABEL})*\.?")
USER = re.compile(r"[^\s:/\0]{1,256}(:[^\s:/\0]{1,256})?")
CONTROL = re.compile(r"[\0-\x1f\x7f]")


def _refuse(field: str, problem: str, hint: str = "") -> NoReturn:
    raise InvalidArgument(f"{field}: {problem}", hint=hint, field=field)


def check(config: ContainerConfig, *, shared: bool = False) -> None:
    """Refuse what cannot be, on this machine. Raises InvalidArgument with metadata `field`. `shared`: it is to be in a pod with others."""
    check_process((*config.entrypoint, *config.command), config.env, config.working_dir or "/", config.user)
    if config.hostname:
        _hostname(config.hostname)
    if config.stop_signal:
        parse_signal(config.stop_signal)
    if config.stop_timeout is not None and config.stop_timeout < 0:
        _refuse("stop_timeout_seconds", f"{config.stop_timeout} is negative")
    if config.rootfs_size < 0:
        _refuse("rootfs_size_bytes", f"{config.rootfs_size} is negative")
    if config.pid not in ("", "host") and not shared:
        _refuse("pid", f"{config.pid!r} needs a pod to share")
    _mounts(config.mounts)
    for mount in config.mounts if shared else ():
        _propagation(mount)
    check_devices(config.devices)
    check_resources(config.resources)
    _security(config.security)
    _network(config.network)
    _log(config.log)


def check_process(command: Sequence[str], env: Sequence[str], cwd: str, user: str) -> None:
    """Refuse what execve(2) or a look-up of users would choke on. Raises InvalidArgument."""
    for argument in command:
        if "\0" in argument:
            _refuse("command", f"argument {argument!r} contains a null byte")
    for entry in env:
        name, equals, _ = entry.partition("=")
        if not name or not equals:
            _refuse("env", f"{entry!r} is not NAME=value")
        if "\0" in entry or CONTROL.search(name):
            _refuse("env", f"{name!r} contains a control character")
    if sum(map(len, env)) > MAX_ENVIRONMENT:
        _refuse("env", f"larger than {MAX_ENVIRONMENT} bytes")
    if not cwd.startswith("/") or CONTROL.search(cwd):
        _refuse("working_dir", f"{cwd!r} is not an absolute path")
    if user:
        _user(user)


def _user(user: str) -> None:
    if not USER.fullmatch(user) or CONTROL.search(user):
        _refuse("user", f"{user!r} is not name, uid, name:group or uid:gid")
    for part in user.split(":"):
        if part.isdecimal() and not (part.isascii() and int(part) <= MAX_ID):
            _refuse("user", f"{part} is larger than the largest ID, {MAX_ID}")


def _hostname(hostname: str) -> None:
    if len(hostname) > HOST_NAME_MAX:
        _refuse("hostname", f"longer than {HOST_NAME_MAX} characters")
    if not HOST_NAME.fullmatch(hostname):
        _refuse("hostname", f"{hostname!r} is not a host name", "letters, digits, - and _ in labels separated by dots")


def parse_signal(text: str) -> int:
    """The number of `SIGTERM`, `term`, `15`, `SIGRTMIN+3` or `RTMAX-1`. Raises InvalidArgument."""
    name = text.strip().upper().removeprefix("SIG")
    if name.isascii() and name.isdigit():
        number = int(name[:4])
        if 1 <= number <= signal.SIGRTMAX:
            return number
    elif match := re.fullmatch(r"(RTMIN|RTMAX)([+-]\d{1,2})?", name):
        number = signal.Signals[f"SIG{match[1]}"] + int(match[2] or 0)
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    elif f"SIG{name}" in signal.Signals.__members__:
        return signal.Signals[f"SIG{name}"]
    _refuse("signal", f"unknown signal {text!r}", "a name like SIGTERM or a number from 1 to 64")


def check_pod(config: PodConfig) -> None:
    """Refuse a pod that cannot be, on this machine. Raises InvalidArgument with metadata `field`."""
    if not config.name:
        _refuse("metadata.name", "a pod needs a name")
    if any(CONTROL.search(text) for text in (config.name, config.namespace, config.uid)):
        _refuse("metadata", "a name contains a control character")
    if config.hostname:
        _hostname(config.hostname)
    if config.cgroup_parent and {"", ".", ".."} & set(config.cgroup_parent.strip("/").split("/")):
        _refuse("cgroup_parent", f"{config.cgroup_parent!r} is not the path of a cgroup")
    if config.network == "host" and any(port.host_port for port in config.attachment.ports):
        _refuse("port_mappings", "a pod with the host's network has no ports of its own to map")
    for users in (config.users, config.groups_map):
        _id_map(users)
    if config.users and (config.network == "host" or config.ipc == "host" or config.security.privileged):
        _refuse("userns_options", "a pod with a user namespace has network and IPC of its own, and is not privileged")
    _network(config.attachment)


def _id_map(maps: Sequence[IdMap]) -> None:
    if not maps:
        return
    if len(maps) > 1:
        _refuse("userns_options", f"{len(maps)} mappings, of which there can be one")
    (only,) = maps
    if only.container != 0 or only.length < 1 or not 0 <= only.host <= MAX_ID - only.length:
        _refuse("userns_options", f"{only.length} IDs from {only.container} on to {only.host}: ID 0 must be mapped")


def check_devices(devices: Sequence[Device]) -> None:
    """Refuse devices that are none."""
    for device in devices:
        _path("devices.target", device.target)
        if not set(device.permissions) <= set("rwm"):
            _refuse("devices.permissions", f"{device.permissions!r} is not of r, w and m")
    mounts.devices(devices)


# --- mounts -----------------------------------------------------------------------------------------------------------


def _mounts(asked: Sequence[Mount]) -> None:
    seen: set[str] = set()
    for mount in asked:
        target = _target(mount)
        if target in seen:
            _refuse("mounts.target", f"two mounts at {target}")
        seen.add(target)
        if mount.kind == "bind":
            _bind(mount)
        elif mount.kind == "image":
            _image(mount)
        else:
            _tmpfs(mount)


def _target(mount: Mount) -> str:
    _path("mounts.target", mount.target)
    normal = os.path.normpath(mount.target)
    if normal == "/":
        _refuse("mounts.target", "/ is the root file system itself")
    if normal == "/proc" and mount.kind == "bind" and _is_procfs(mount.source):
        return normal
    if (normal == "/proc" or normal.startswith("/proc/")) and normal not in PROC_TARGETS:
        _refuse("mounts.target", f"{mount.target} is in /proc, where only the kernel may answer")
    return normal


def _is_procfs(path: str) -> bool:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False
    try:
        return syscalls.file_system_type(fd) == syscalls.PROC_SUPER_MAGIC
    finally:
        os.close(fd)


def _path(field: str, path: str) -> None:
    if not path.startswith("/") or path.startswith("//"):
        _refuse(field, f"{path!r} is not an absolute path")
    if ".." in path.split("/"):
        _refuse(field, f"{path!r} contains ..")
    if CONTROL.search(path):
        _refuse(field, f"{path!r} contains a control character")


def _bind(mount: Mount) -> None:
    _path("mounts.source", mount.source)
    if mount.propagation not in PROPAGATIONS:
        _refuse("mounts.propagation", f"unknown propagation {mount.propagation!r}", "private, rslave, rshared, …")
    if mount.size:
        _refuse("mounts.size_bytes", "a bind mount has no size of its own")
    if not os.path.exists(mount.source):
        _refuse("mounts.source", f"{mount.source} does not exist", "make it first")
    if mount.recursive_read_only and not (mount.read_only and mount.propagation in ("", "private", "rprivate")):
        _refuse("mounts.recursive_read_only", "needs a mount that is read-only and private")


def _propagation(mount: Mount) -> None:
    """What is mounted on the host spreads into a container only from a mount that is set to spread."""
    if not mount.propagation.endswith(("shared", "slave")):
        return
    mounted = propagation_of(mount.source)
    if "shared" not in mounted and (mount.propagation.endswith("shared") or "master" not in mounted):
        need = "shared" if mount.propagation.endswith("shared") else "shared or slave"
        _refuse("mounts.propagation", f"{mount.source} is not on a {need} mount", "`mount --make-rshared` makes it one")


def propagation_of(path: str) -> set[str]:
    """`shared`, `master` (a slave) or nothing: how the mount that `path` is on spreads. See proc_pid_mountinfo(5)."""
    path = os.path.realpath(path)
    best, found = "", set[str]()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.partition(" - ")[0].split(" ")
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            # Of several at one place the last is on top.
            if len(point) >= len(best) and (path + "/").startswith(point.rstrip("/") + "/"):
                best, found = point, {tag.partition(":")[0] for tag in fields[6:]}
    return found


def _image(mount: Mount) -> None:
    if not mount.source:
        _refuse("mounts.source", "no image was named")
    if not mount.read_only:
        _refuse("mounts.read_only", "an image can be mounted read-only only")
    if mount.sub_path.startswith("/") or ".." in mount.sub_path.split("/") or CONTROL.search(mount.sub_path):
        _refuse("mounts.sub_path", f"{mount.sub_path!r} is not a path inside the image")
    if mount.propagation or mount.size or mount.id_map:
        _refuse("mounts", "an image has no propagation, size or mapping")


def _tmpfs(mount: Mount) -> None:
    if mount.source:
        _refuse("mounts.source", f"a tmpfs has no source, and {mount.source!r} was given")
    if mount.propagation:
        _refuse("mounts.propagation", "a tmpfs has no propagation")
    if not 0 <= mount.size <= MAX_INT64:
        _refuse("mounts.size_bytes", f"{mount.size} is not a size")


# --- resources --------------------------------------------------------------------------------------------------------


def check_resources(resources: Resources) -> None:
    """Refuse limits that cannot be. Raises InvalidArgument."""
    _memory(resources.memory, resources.memory_swap)
    _cpu(resources)
    if not 0 <= resources.pids <= MAX_INT64:
        _refuse("resources.pids_limit", f"{resources.pids} is negative", "0 is no limit")
    if resources.oom_score_adj is not None and not -1000 <= resources.oom_score_adj <= 1000:
        _refuse("resources.oom_score_adj", f"{resources.oom_score_adj} is not between -1000 and 1000")
    for name in resources.unified:
        if not re.fullmatch(r"[a-z0-9_]+(\.[A-Za-z0-9_]+)+", name):
            _refuse("resources.unified", f"{name!r} is not a file of a cgroup")
    for size, most in resources.hugepages:
        if not re.fullmatch(r"[1-9][0-9]{0,6}[KMG]B", size):
            _refuse("resources.hugepage_limits", f"{size!r} is not a size of pages", "2MB or 1GB, for example")
        if not 0 <= most <= MAX_INT64:
            _refuse("resources.hugepage_limits", f"{most} bytes is too large")
    seen: set[str] = set()
    for limit in resources.rlimits:
        _rlimit(limit)
        if limit.name.lower() in seen:
            _refuse("resources.rlimits", f"{limit.name} is given twice")
        seen.add(limit.name.lower())


def _memory(memory: int, swap: int) -> None:
    if memory and memory < MIN_MEMORY:
        _refuse("resources.memory_limit_bytes", f"{memory} is less than the minimum of {MIN_MEMORY} (2 MiB)")
    if memory > MAX_INT64:
        _refuse("resources.memory_limit_bytes", f"{memory} is too large")
    if swap < -1:
        _refuse("resources.memory_swap_limit_bytes", f"{swap} is negative", "-1 is no limit")
    if swap > 0 and not memory:
        _refuse("resources.memory_swap_limit_bytes", "needs a memory limit too", "it limits memory and swap together")
    if 0 < swap < memory:
        _refuse("resources.memory_swap_limit_bytes", f"{swap} is less than the memory limit of {memory}")


def _cpu(resources: Resources) -> None:
    count = os.cpu_count() or 1
    if resources.cpu_nanos and not MIN_CPU_NANOS <= resources.cpu_nanos <= count * 1_000_000_000:
        wanted = resources.cpu_nanos / 1e9
        _refuse("resources.cpu_nanos", f"{wanted:g} CPUs is not between 0.01 and the {count} that this host has")
    if resources.cpu_shares and resources.cpu_shares not in CPU_SHARES:
        _refuse("resources.cpu_shares", f"{resources.cpu_shares} is not between 2 and 262144")
    if resources.cpu_period and not 1000 <= resources.cpu_period <= 1_000_000:
        _refuse("resources.cpu_period", f"{resources.cpu_period} is not between 1000 and 1000000 microseconds")
    if resources.cpu_quota < -1 or 0 < resources.cpu_quota < 1000:
        _refuse("resources.cpu_quota", f"{resources.cpu_quota} is less than 1000 microseconds", "-1 is no limit")
    _cpuset("resources.cpuset_cpus", resources.cpuset_cpus, "/sys/devices/system/cpu/online")
    _cpuset("resources.cpuset_mems", resources.cpuset_mems, "/sys/devices/system/node/online")


def _cpuset(field: str, text: str, online_path: str) -> None:
    if not text:
        return
    online = _online(online_path)
    for first, last in _ranges(field, text):
        if not {first, last} <= online:
            _refuse(field, f"{text!r} is not within the host's {_listed(online)}")


def _ranges(field: str, text: str) -> list[tuple[int, int]]:
    """`0-1,3` as pairs of first and last. cpuset(7), list format."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part, re.ASCII)
        if not match or int(match[2] or match[1]) < int(match[1]):
            _refuse(field, f"{text!r} is not a list like 0-1,3")
        found.append((int(match[1]), int(match[2] or match[1])))
    return found


@cache
def _online(path: str) -> frozenset[int]:
    """CPUs or memory nodes of the host. Without NUMA the kernel lists no nodes, and there is node 0."""
    try:
        with open(path) as file:
            ranges = _ranges(path, file.read().strip())
    except FileNotFoundError:
        return frozenset({0})
    return frozenset(number for first, last in ranges for number in range(first, last + 1))


def _listed(numbers: frozenset[int]) -> str:
    return f"{min(numbers)}-{max(numbers)}" if len(numbers) > 1 else str(min(numbers))


def _rlimit(limit: Rlimit) -> None:
    if limit.name.lower() not in RLIMITS:
        _refuse("resources.rlimits", f"unknown resource limit {limit.name!r}", f"one of {', '.join(sorted(RLIMITS))}")
    for value in (limit.soft, limit.hard):
        if not -1 <= value <= MAX_INT64:
            _refuse("resources.rlimits", f"{limit.name}: {value} is negative", "-1 is no limit")
    if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
        _refuse("resources.rlimits", f"{limit.name}: soft limit {limit.soft} is above hard limit {limit.hard}")


# --- security, network, log -------------------------------------------------------------------------------------------


def _security(security: Security) -> None:
    for field in ("cap_add", "cap_drop", "cap_ambient"):
        for name in getattr(security, field):
            _capability(f"security.{field}", name)
    for group in security.groups:
        if not 0 <= group <= MAX_ID:
            _refuse("security.groups", f"{group} is not between 0 and {MAX_ID}")
    if security.apparmor_profile not in ("", "unconfined") and not os.path.isdir("/sys/kernel/security/apparmor"):
        _refuse(
            "security.apparmor_profile", f"{security.apparmor_profile!r} was asked for, and the kernel has no AppArmor"
        )
    if security.selinux_label and not os.path.isdir("/sys/fs/selinux"):
        _refuse("security.selinux_label", f"{security.selinux_label!r} was asked for, and the kernel has no SELinux")
    if security.seccomp_profile not in ("", "default", "unconfined"):
        _seccomp(security.seccomp_profile)


def _capability(field: str, name: str) -> None:
    full = f"CAP_{name.upper().removeprefix('CAP_')}"
    if name.upper() == "ALL":
        return
    if full not in capabilities.ALL:
        _refuse(field, f"unknown capability {name!r}", "a name like NET_ADMIN, or ALL")
    if field == "security.cap_add" and full not in capabilities.bounding_set():
        _refuse(field, f"{name} cannot be given, for the daemon does not have it")


def _seccomp(text: str) -> None:
    field = "security.seccomp_profile"
    if len(text) > MAX_SECCOMP_SIZE:
        _refuse(field, f"larger than {MAX_SECCOMP_SIZE} bytes")
    try:
        profile = json.loads(text)
    except (ValueError, RecursionError) as error:
        _refuse(field, f"not JSON: {error}", "`default`, `unconfined` or the JSON of a profile")
    if not isinstance(profile, dict):
        _refuse(field, "not a JSON object")
    try:
        seccomp.compile(profile)
    except (ValueError, AttributeError, TypeError, ctypes.ArgumentError) as error:
        _refuse(field, str(error))


def _network(network: NetworkAttachment) -> None:
    """These end up as lines of files that the container's programs read."""
    for server in network.dns_servers:
        _address("network.dns_servers", server)
    for field, values in (("dns_searches", network.dns_searches), ("dns_options", network.dns_options)):
        for value in values:
            if not re.fullmatch(r"[\x21-\x7e]{1,255}", value):
                _refuse(f"network.{field}", f"{value!r} is not a word")
    for entry in network.extra_hosts:
        name, _, address = entry.partition(":")
        if not HOST_NAME.fullmatch(name):
            _refuse("network.extra_hosts", f"{entry!r} is not name:address")
        _address("network.extra_hosts", address.strip("[]"))


def _address(field: str, text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        _refuse(field, f"{text!r} is not an IP address")


def _log(log: LogConfig) -> None:
    if log.path:
        _path("log.path", log.path)
    if log.max_size < 0:
        _refuse("log.max_size_bytes", f"{log.max_size} is negative")
    if log.max_files < 0:
        _refuse("log.max_files", f"{log.max_files} is negative")
