"""What the host has, what it lacks, and what that costs.

`examine` changes nothing. It needs no daemon and no root, but knows more with it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moorage.server import probes
from moorage.server.libcontainer import capabilities

MIB = 1 << 20
GIB = 1 << 30
MINIMAL_KERNEL = (5, 12)
IDMAPPED_OVERLAY_KERNEL = (5, 19)
LOW_DISK_BYTES = 2 * GIB
NO_DISK_BYTES = 100 * MIB

State = Literal["ok", "degraded", "missing"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    `missing` is essential: containers do not run without it. `cost` is what is lost, `hint` what helps.
    """

    name: str
    state: State
    detail: str
    cost: str = ""
    hint: str = ""


def examine(root: str) -> list[Finding]:
    """Look at everything a daemon with its data in `root` (which need not exist yet) depends on."""
    mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    status = Path("/proc/self/status").read_text()
    filesystems = Path("/proc/filesystems").read_text()
    return [
        kernel(os.uname().release),
        *system_calls({name: probes.has_syscall(name) for name in probes.SYSCALLS}),
        *privileges(os.geteuid(), effective(status)),
        *namespaces({entry.name for entry in Path("/proc/self/ns").iterdir()}),
        user_namespaces(_number(Path("/proc/sys/user/max_user_namespaces"))),
        idmapped_mounts(os.uname().release),
        *cgroups(mountinfo),
        *storage(nearest(root), mountinfo, filesystems),
        *seccomp(status, probes.has_library("libseccomp.so.2")),
        apparmor(Path("/sys/module/apparmor/parameters/enabled")),
        *network(),
        forwarding(_number(Path("/proc/sys/net/ipv4/ip_forward"))),
        port_range(Path("/proc/sys/net/ipv4/ip_local_port_range")),
    ]


def kernel(release: str) -> Finding:
    """The kernel's version."""
    if _release(release) >= MINIMAL_KERNEL:
        return Finding("kernel", "ok", release)
    wanted = ".".join(map(str, MINIMAL_KERNEL))
    return Finding(
        "kernel", "missing", f"{release} is older than {wanted}", "containers do not start", "upgrade the kernel"
    )


def idmapped_mounts(release: str) -> Finding:
    """Mounts that show files under other owners, below an overlay too."""
    if _release(release) >= IDMAPPED_OVERLAY_KERNEL:
        return Finding("idmapped mounts", "ok", "there")
    cost = "containers with user IDs of their own need copies of their layers"
    return Finding("idmapped mounts", "degraded", "not below overlay in this kernel", cost, "upgrade the kernel")


def _release(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def system_calls(found: Mapping[str, bool]) -> Iterator[Finding]:
    """The newer system calls that starting a container is built on."""
    lacking = [name for name, there in found.items() if not there]
    if not lacking:
        yield Finding("system calls", "ok", ", ".join(found))
        return
    yield Finding(
        "system calls",
        "missing",
        f"{', '.join(lacking)} not available",
        "containers do not start",
        "upgrade the kernel; in a container or sandbox, have its seccomp filter allow them",
    )


ESSENTIAL_CAPABILITIES = {
    "CAP_SYS_ADMIN": "no namespaces and no mounts: containers do not start",
    "CAP_NET_ADMIN": "no bridge networks and no published ports",
    "CAP_SYS_CHROOT": "layers cannot be unpacked",
    "CAP_SETUID": "containers cannot run as another user",
    "CAP_SETGID": "containers cannot run as another group",
    "CAP_SETPCAP": "capabilities cannot be taken away from containers",
    "CAP_CHOWN": "the owners of an image's files cannot be kept",
    "CAP_DAC_OVERRIDE": "files of other users in images cannot be reached",
    "CAP_FOWNER": "the modes of an image's files cannot be kept",
    "CAP_KILL": "processes of other users cannot be signalled",
}
USEFUL_CAPABILITIES = {
    "CAP_SYS_RESOURCE": "oom_score_adj and resource limits are clamped to what the daemon itself has",
    "CAP_MKNOD": "device nodes in images cannot be made",
    "CAP_SETFCAP": "file capabilities in images are lost: ping and its like may not work",
    "CAP_SYS_PTRACE": "processes of containers cannot be looked into",
    "CAP_NET_RAW": "containers cannot have raw sockets: ping may not work",
    "CAP_NET_BIND_SERVICE": "containers cannot bind ports below 1024",
}


def effective(status: str) -> frozenset[str]:
    """The effective capabilities in a /proc/PID/status."""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    mask = int(match[1], 16) if match else 0
    return frozenset(name for number, name in enumerate(capabilities.ALL) if mask >> number & 1)


def privileges(uid: int, held: frozenset[str]) -> Iterator[Finding]:
    """Root, and each capability that is not there."""
    if uid != 0:
        yield Finding("root", "missing", f"uid {uid} is not root", "the daemon does not start", "run it as root")
    else:
        yield Finding("root", "ok", "uid 0")
    costs: dict[str, tuple[State, str]] = {name: ("missing", cost) for name, cost in ESSENTIAL_CAPABILITIES.items()}
    costs |= {name: ("degraded", cost) for name, cost in USEFUL_CAPABILITIES.items()}
    lacking = [name for name in capabilities.ALL if name not in held]
    if not lacking:
        yield Finding("capabilities", "ok", f"all {len(capabilities.ALL)}")
        return
    for name in lacking:
        state, cost = costs.get(name, ("degraded", f"containers cannot have {name}"))
        yield Finding(name.lower(), state, "not in the effective set", cost, _capability_hint(uid))


def _capability_hint(uid: int) -> str:
    return (
        "run it as root" if uid else "give it where the daemon is started (a unit's CapabilityBoundingSet, a sandbox)"
    )


def namespaces(kinds: set[str]) -> Iterator[Finding]:
    """The kinds of namespaces."""
    essential = {"mnt", "pid", "ipc", "uts", "net"}
    lacking = sorted(essential - kinds)
    if lacking:
        cost, hint = "containers do not start", "use a kernel with CONFIG_NAMESPACES and all below it"
        yield Finding("namespaces", "missing", f"no {', '.join(lacking)} namespaces", cost, hint)
    else:
        yield Finding("namespaces", "ok", ", ".join(sorted(kind for kind in kinds if "_for_" not in kind)))
    if "cgroup" not in kinds:
        yield Finding("cgroup namespaces", "degraded", "not there", "containers see the host's cgroup paths")


def user_namespaces(limit: int | None) -> Finding:
    """User namespaces."""
    if limit:
        return Finding("user namespaces", "ok", f"up to {limit}")
    detail = "not in this kernel" if limit is None else "user.max_user_namespaces is 0"
    return Finding(
        "user namespaces",
        "degraded",
        detail,
        "containers cannot have user IDs of their own",
        "sysctl user.max_user_namespaces=15000" if limit == 0 else "use a kernel with CONFIG_USER_NS",
    )


CONTROLLERS = {
    "memory": "no memory limits, no memory statistics and no word of OOM kills",
    "pids": "no limits on processes: a fork bomb takes the host",
    "cpu": "no CPU limits and shares",
    "cpuset": "containers cannot be bound to CPUs",
}


def cgroups(mountinfo: str) -> Iterator[Finding]:
    """The version of cgroups, their controllers, and whether swap is accounted for."""
    v1: dict[str, str] = {}
    v2 = ""
    for point, kind, options in _mounts(mountinfo):
        if kind == "cgroup":
            v1 |= dict.fromkeys(options.split(","), point)
        elif kind == "cgroup2":
            v2 = v2 or point
    if any(name in v1 for name in CONTROLLERS):
        yield Finding("cgroups", "ok", "version 1")
        yield from _controllers({name for name in v1 if name in CONTROLLERS})
        if "memory" in v1:
            yield _swap(Path(v1["memory"], "memory.memsw.limit_in_bytes").exists())
    elif v2:
        yield Finding("cgroups", "ok", "version 2")
        found = set(Path(v2, "cgroup.controllers").read_text().split())
        yield from _controllers(found)
        if "memory" in found:
            yield _swap(any(Path(v2).glob("*/memory.swap.max")))
    else:
        cost, hint = "containers do not start", "mount cgroup2 at /sys/fs/cgroup"
        yield Finding("cgroups", "missing", "not mounted", cost, hint)


def _controllers(found: set[str]) -> Iterator[Finding]:
    for name, cost in CONTROLLERS.items():
        if name in found:
            yield Finding(f"{name} controller", "ok", "there")
        else:
            hint = f"enable it: cgroup_enable={name} on the kernel's command line, or cgroup.subtree_control"
            yield Finding(f"{name} controller", "degraded", "not there", cost, hint)


def _swap(accounted: bool) -> Finding:
    if accounted:
        return Finding("swap accounting", "ok", "there")
    cost = "swap is not counted: a container may use swap beyond its memory limit"
    return Finding("swap accounting", "degraded", "not there", cost, "put swapaccount=1 on the kernel's command line")


def nearest(path: str) -> Path:
    """`path`, or the closest directory above it that exists."""
    here = Path(path).absolute()
    return next(directory for directory in (here, *here.parents) if directory.is_dir())


def storage(directory: Path, mountinfo: str, filesystems: str) -> Iterator[Finding]:
    """Overlay, the file system that the daemon's root is on, and the room there."""
    if re.search(r"\boverlay$", filesystems, re.MULTILINE):
        yield Finding("overlay", "ok", "there")
    else:
        cost = "layers are copied (graph driver vfs): slow starts, much disk"
        yield Finding("overlay", "degraded", "not in this kernel, or not loaded", cost, "modprobe overlay")
    yield file_system(directory, _kind_of(directory, mountinfo), probes.tells_entry_types(str(directory)))
    room = os.statvfs(directory)
    yield disk(directory, room.f_bavail * room.f_frsize, room.f_favail if room.f_files else None)


def file_system(directory: Path, kind: str, entry_types: bool | None) -> Finding:
    """Whether overlay can keep its layers on the file system at `directory`."""
    detail = f"{kind} at {directory}"
    cost = "overlay cannot keep layers there: they are copied (graph driver vfs)"
    if entry_types is False:
        return Finding("file system", "degraded", f"{detail}, without d_type", cost, "make xfs with ftype=1")
    if kind in ("overlay", "nfs", "nfs4", "vfat", "exfat", "ecryptfs") or kind.startswith("fuse"):
        return Finding("file system", "degraded", detail, cost, "put the root on ext4, xfs or btrfs")
    if kind == "tmpfs":
        return Finding("file system", "degraded", detail, "images and containers take memory, and are gone at a reboot")
    return Finding("file system", "ok", detail)


def disk(directory: Path, free_bytes: int, free_inodes: int | None) -> Finding:
    """Room for images and containers."""
    inodes = "" if free_inodes is None else f", {free_inodes} inodes"
    detail = f"{free_bytes / GIB:.1f} GiB{inodes} free at {directory}"
    hint = "make room, or put the root elsewhere with --root"
    if free_bytes < NO_DISK_BYTES or free_inodes == 0:
        return Finding("disk", "missing", detail, "images cannot be pulled, containers cannot write", hint)
    if free_bytes < LOW_DISK_BYTES:
        return Finding("disk", "degraded", detail, "pulls of larger images fail", hint)
    return Finding("disk", "ok", detail)


def seccomp(status: str, library: bool) -> Iterator[Finding]:
    """System call filters, and the library that compiles them."""
    if re.search(r"^Seccomp:", status, re.MULTILINE):
        yield Finding("seccomp", "ok", "there")
    else:
        cost, hint = "only unconfined containers start", "use a kernel with CONFIG_SECCOMP_FILTER"
        yield Finding("seccomp", "missing", "not in this kernel", cost, hint)
    if library:
        yield Finding("libseccomp", "ok", "libseccomp.so.2")
    else:
        cost = "filters cannot be compiled: only unconfined containers start"
        yield Finding("libseccomp", "missing", "libseccomp.so.2 not found", cost, "apt-get install libseccomp2")


def apparmor(enabled: Path) -> Finding:
    """AppArmor, by its kernel module's parameter."""
    if enabled.exists() and enabled.read_text().strip() == "Y":
        return Finding("apparmor", "ok", "enabled")
    return Finding("apparmor", "degraded", "not enabled", "containers have one line of defence less")


def network() -> Iterator[Finding]:
    """What bridge networks are made of: links and nftables."""
    hints = {"bridge": "modprobe bridge", "veth": "modprobe veth"}
    for kind, hint in hints.items():
        yield _answer(kind, probes.link_error(kind), "no bridge networks, only host and none", hint)
    yield _answer("nftables", probes.nftables_error(), "no published ports and no way out (NAT)", "modprobe nf_tables")
    if probes.has_library("libnftables.so.1"):
        yield Finding("libnftables", "ok", "libnftables.so.1")
    else:
        cost = "no published ports and no way out (NAT)"
        yield Finding("libnftables", "missing", "libnftables.so.1 not found", cost, "apt-get install libnftables1")


def _answer(name: str, number: int, cost: str, hint: str) -> Finding:
    if not number:
        return Finding(name, "ok", "there")
    if number in (errno.EPERM, errno.EACCES):
        return Finding(name, "degraded", "cannot tell without root", cost, "run this as root")
    detail = "not in this kernel" if number in (errno.EOPNOTSUPP, errno.EINVAL) else os.strerror(number).lower()
    return Finding(name, "missing", detail, cost, hint)


def forwarding(value: int | None) -> Finding:
    """IPv4 forwarding; the daemon turns it on when it makes its bridge."""
    if value == 1:
        return Finding("ip_forward", "ok", "on")
    if value == 0:
        return Finding("ip_forward", "ok", "off; the daemon turns it on when it makes a bridge")
    cost = "containers reach nothing outside their network"
    return Finding("ip_forward", "missing", "no IPv4 in this kernel", cost, "use a kernel with CONFIG_INET")


def port_range(setting: Path) -> Finding:
    """The ports that are left for `-p` without a host port: those dynamic ones that the host does not take for
    itself.
    """
    if not setting.exists():
        return Finding(
            "ports", "degraded", "local port range unknown", "chosen host ports may collide with the host's own"
        )
    first, last = map(int, setting.read_text().split())
    if first <= 49152 and last >= 65535:
        cost = "host ports chosen for -p may collide with connections of the host"
        hint = "leave some out: sysctl net.ipv4.ip_local_port_range='32768 60999'"
        return Finding("ports", "degraded", f"the host takes {first} to {last} for itself", cost, hint)
    return Finding("ports", "ok", f"the host takes {first} to {last} for itself")


def _mounts(mountinfo: str) -> Iterator[tuple[str, str, str]]:
    """Mount point, type and super block options of each line (proc_pid_mountinfo(5))."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split(" ")[4])
        kind, _, options = after.split(" ", 2)
        yield point, kind, options


def _kind_of(directory: Path, mountinfo: str) -> str:
    """The type of the file system that `directory` is on: of the mounts above it the deepest, and of those the last."""
    kind = "unknown"
    depth = 0
    for point, candidate, _ in _mounts(mountinfo):
        above = Path(point)
        if directory.is_relative_to(above) and len(above.parts) >= depth:
            kind, depth = candidate, len(above.parts)
    return kind


def _number(path: Path) -> int | None:
    return int(path.read_text()) if path.exists() else None
