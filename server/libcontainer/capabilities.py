"""Capabilities of a process, see capabilities(7).

Order around a change of user: `drop_bounding` needs CAP_SETPCAP and so comes before setresuid(2); it also sets
PR_SET_KEEPCAPS, so that the permitted set survives setresuid. `apply` then makes the sets exact.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping, Sequence

_NUMBERED = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
_DEFAULT = """
    CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL
    AUDIT_WRITE
"""
_NAMES = [f"CAP_{name}" for name in _NUMBERED.split()]

PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522

SETS = ("effective", "permitted", "inheritable", "ambient")


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.capset.argtypes = [ctypes.POINTER(_Header), ctypes.POINTER(_Data)]


def _known_to_kernel() -> int:
    """How many capabilities this kernel knows."""
    try:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            return int(file.read()) + 1
    except FileNotFoundError:
        return len(_NAMES)


ALL: tuple[str, ...] = tuple(_NAMES[: _known_to_kernel()])
"""Every capability that this program and this kernel know, by number."""

DEFAULT: frozenset[str] = frozenset(f"CAP_{name}" for name in _DEFAULT.split())
"""What a container gets unless it is told otherwise."""

_KNOWN = {name: number for number, name in enumerate(_NAMES)}


def bounding_set() -> frozenset[str]:
    """The capabilities that the calling process and its children can ever have."""
    return frozenset(ALL[number] for number in _bounding)


def drop_bounding(capabilities: Mapping[str, Sequence[str]]) -> None:
    """Cut the caller's bounding set down to OCI `process.capabilities.bounding`.

    The permitted set will survive setresuid(2) then. Raises ValueError for an unknown name, OSError (EPERM) without
    CAP_SETPCAP.
    """
    wanted = _numbers(capabilities.get("bounding", ()))
    for number in sorted(_bounding - wanted):
        _prctl(PR_CAPBSET_DROP, number)
        _bounding.discard(number)
    _prctl(PR_SET_KEEPCAPS, 1)


def apply(capabilities: Mapping[str, Sequence[str]]) -> None:
    """Set the caller's effective, permitted, inheritable and ambient sets to those of OCI `process.capabilities`.

    Names outside the bounding set are dropped, for the kernel gives them to nobody. Raises ValueError for an unknown
    name, OSError when the process does not have what it is to get.
    """
    sets = {
        name: _numbers(capabilities.get(name, ())) & _bounding
        for name in ("effective", "permitted", "inheritable", "ambient")
    }
    _capset(_mask(sets["effective"]), _mask(sets["permitted"]), _mask(sets["inheritable"]))
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for number in sets["ambient"]:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)
    _prctl(PR_SET_KEEPCAPS, 0)


def _numbers(names: Iterable[str]) -> set[int]:
    unknown = [name for name in names if name not in _KNOWN]
    if unknown:
        raise ValueError(f"unknown capability {unknown[0]!r}")
    return {_KNOWN[name] for name in names}


def _mask(numbers: set[int]) -> int:
    return sum(1 << number for number in numbers)


def _capset(effective: int, permitted: int, inheritable: int) -> None:
    low = 0xFFFFFFFF
    data = (_Data * 2)(
        _Data(effective & low, permitted & low, inheritable & low),
        _Data(effective >> 32, permitted >> 32, inheritable >> 32),
    )
    if _libc.capset(_Header(CAPABILITY_VERSION_3, 0), data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot set capabilities: {os.strerror(number).lower()}")


def _prctl(option: int, arg2: int = 0, arg3: int = 0) -> int:
    result: int = _libc.prctl(option, arg2, arg3, 0, 0)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot prctl({option}, {arg2}, {arg3}): {os.strerror(number).lower()}")
    return result


_bounding = {number for number in range(len(ALL)) if _prctl(PR_CAPBSET_READ, number)}
"""The bounding set of this process. It is read once, forks remember it, and nobody but `drop_bounding` changes it."""
