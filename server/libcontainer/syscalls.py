"""System calls that Python does not offer: one thin wrapper each, raising OSError.

The calls that have no wrapper in every C library go by number; those numbers are the same on all architectures. Linux 5.12
or newer. The interpreter's lock is kept during a call: the processes that use this have one thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Any

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000

MS_RDONLY = 1 << 0
MS_NOSUID = 1 << 1
MS_NODEV = 1 << 2
MS_NOEXEC = 1 << 3
MS_BIND = 1 << 12
MS_REC = 1 << 14
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_ATIME = 0x00000070
"""The mask of the three ways to keep access times, of which relatime is 0."""
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38

CLOSE_RANGE_CLOEXEC = 4

PROC_SUPER_MAGIC = 0x9FA0
DEVPTS_SUPER_MAGIC = 0x1CD1

_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SIGCHLD = 17
_SIG_SETMASK = 2
_SIGSET_SIZE = 128
"""The C library's sigset_t: one bit a signal, the first the lowest."""
_ALL_SIGNALS = b"\xff" * _SIGSET_SIZE
NO_SIGNALS = bytes(_SIGSET_SIZE)
_SETTABLE_SIGNALS = sorted(int(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_C_LIBRARY_SIGNALS = (32, 33)
"""Kept by the C library for itself; ignored in what posix_spawn(3) started, and in all that it starts."""
_DEFAULT_ACTION = bytes(32)
"""The kernel's struct sigaction, which is no longer on any architecture."""
_KERNEL_SIGSET_SIZE = 8


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
        )
    ]


class _Statfs(ctypes.Structure):
    # The kernel fills 120 bytes on 64-bit machines; only the type is of interest.
    _fields_ = [("type", ctypes.c_long), ("rest", ctypes.c_long * 31)]


_libc = ctypes.PyDLL(None, use_errno=True)

_fd = _int = _uint = ctypes.c_int
_path = ctypes.c_char_p


def _function(name: str, *argtypes: Any) -> Any:
    function = _libc[name]
    function.argtypes = argtypes
    function.restype = ctypes.c_int
    return function


def _numbered(number: int, *argtypes: Any) -> Callable[..., int]:
    # Subscripting a library gives a new function object each time, so each call has argument types of its own.
    function = _libc["syscall"]
    function.argtypes = (ctypes.c_long, *argtypes)
    function.restype = ctypes.c_long

    def call(*arguments: Any) -> int:
        result: int = function(number, *arguments)
        return result

    return call


_mount = _function("mount", _path, _path, _path, ctypes.c_ulong, _path)
_umount2 = _function("umount2", _path, _int)
_pivot_root = _function("pivot_root", _path, _path)
_setns = _function("setns", _fd, _int)
_unshare = _function("unshare", _int)
_prctl = _function("prctl", _int, *[ctypes.c_ulong] * 4)
_setdomainname = _function("setdomainname", _path, ctypes.c_size_t)
_fstatfs = _function("fstatfs", _fd, ctypes.POINTER(_Statfs))
_sigprocmask = _function("sigprocmask", _int, _path, _path)
_signal = _function("signal", _int, ctypes.c_void_p)
_signal.restype = ctypes.c_void_p
_open_tree = _numbered(428, _fd, _path, _int)
_move_mount = _numbered(429, _fd, _path, _fd, _path, _int)
_fsopen = _numbered(430, _path, _int)
_fsconfig = _numbered(431, _fd, _int, _path, _path, _int)
_fsmount = _numbered(432, _fd, _int, _int)
_clone3 = _numbered(435, ctypes.POINTER(_CloneArgs), ctypes.c_size_t)
_close_range = _numbered(436, ctypes.c_uint, ctypes.c_uint, _int)
_openat2 = _numbered(437, _fd, _path, ctypes.POINTER(_OpenHow), ctypes.c_size_t)
_mount_setattr = _numbered(442, _fd, _path, _int, ctypes.POINTER(_MountAttr), ctypes.c_size_t)
_keyctl = _numbered({"x86_64": 250}.get(os.uname().machine, 219), _int, _path)

_rt_sigaction = _numbered({"x86_64": 13}.get(os.uname().machine, 134), _int, _path, ctypes.c_void_p, ctypes.c_size_t)

_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def clone(flags: int) -> tuple[int, int]:
    """fork(2) with `flags` (CLONE_NEW…): in the parent the child's pid and a pidfd (close-on-exec), in the child (0, -1)."""
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArgs(flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd), exit_signal=_SIGCHLD)
    _before_fork()
    pid = _clone3(arguments, ctypes.sizeof(arguments))
    number = ctypes.get_errno()
    if pid == 0:
        _after_fork_child()
        return 0, -1
    _after_fork_parent()
    if pid < 0:
        raise OSError(number, os.strerror(number))
    return pid, pidfd.value


def block_signals() -> bytes:
    """Block every signal that can be blocked; the mask before, for `set_signal_mask`."""
    before = ctypes.create_string_buffer(_SIGSET_SIZE)
    _checked(_sigprocmask(_SIG_SETMASK, _ALL_SIGNALS, before))
    return before.raw


def set_signal_mask(mask: bytes) -> None:
    """Block the signals in `mask` and no others."""
    _checked(_sigprocmask(_SIG_SETMASK, mask, None))


def default_signals() -> None:
    """Give every signal its default action. The interpreter's handlers stay registered with it, but are never called."""
    for number in _SETTABLE_SIGNALS:
        _signal(number, None)
    for number in _C_LIBRARY_SIGNALS:
        _rt_sigaction(number, _DEFAULT_ACTION, None, _KERNEL_SIGSET_SIZE)


def setns(fd: int, kinds: int) -> None:
    """Join the namespace behind `fd`, or those of `kinds` of the process behind a pidfd."""
    _checked(_setns(fd, kinds))


def unshare(kinds: int) -> None:
    """Move the calling process into new namespaces."""
    _checked(_unshare(kinds))


def prctl(option: int, value: int) -> None:
    """Set an attribute of the calling process."""
    _checked(_prctl(option, value, 0, 0, 0))


def close_on_exec(first: int) -> None:
    """Mark all descriptors from `first` up close-on-exec."""
    _checked(_close_range(first, 0xFFFFFFFF, CLOSE_RANGE_CLOEXEC))


def setdomainname(name: str) -> None:
    """Set the NIS domain name of the UTS namespace."""
    encoded = os.fsencode(name)
    _checked(_setdomainname(encoded, len(encoded)))


def new_session_keyring() -> None:
    """Leave the session keyring inherited from the parent for an empty one."""
    _checked(_keyctl(_KEYCTL_JOIN_SESSION_KEYRING, None))


def file_system_type(fd: int) -> int:
    """The magic number of the file system that `fd` is on."""
    result = _Statfs()
    _checked(_fstatfs(fd, result))
    return int(result.type)


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path` below `directory` with RESOLVE_… restrictions; close-on-exec."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return _checked(_openat2(directory, os.fsencode(path), how, ctypes.sizeof(how)), path)


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """mount(2)."""
    names = (os.fsencode(name) for name in (source, target, kind))
    _checked(_mount(*names, flags, os.fsencode(data)), target)


def set_propagation(target: str, flags: int) -> None:
    """Change how mounts spread from and to `target`."""
    _checked(_mount(None, os.fsencode(target), None, flags, None), target)


def umount(target: str, flags: int) -> None:
    """umount2(2)."""
    _checked(_umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _checked(_pivot_root(os.fsencode(new_root), os.fsencode(put_old)))


def open_tree(directory: int, path: str, *, recursive: bool) -> int:
    """A detached copy of the mount at `path` (empty: `directory` itself), with the mounts below it if `recursive`."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    return _checked(_open_tree(directory, os.fsencode(path), flags), path)


def new_mount(kind: str, source: str, parameters: list[tuple[str, str | None]], attributes: int) -> int:
    """A detached mount of a new file system. Raises OSError with the parameter refused, if one was, as filename."""
    context = _checked(_fsopen(kind.encode(), _FSOPEN_CLOEXEC), kind)
    try:
        if source:
            _checked(_fsconfig(context, _FSCONFIG_SET_STRING, b"source", os.fsencode(source), 0), source)
        for key, value in parameters:
            if value is None:
                _checked(_fsconfig(context, _FSCONFIG_SET_FLAG, key.encode(), None, 0), key)
            else:
                _checked(_fsconfig(context, _FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0), key)
        _checked(_fsconfig(context, _FSCONFIG_CMD_CREATE, None, None, 0), kind)
        return _checked(_fsmount(context, _FSMOUNT_CLOEXEC, attributes), kind)
    finally:
        os.close(context)


def move_mount(mount_fd: int, target_fd: int, name: str = "") -> None:
    """Attach a detached mount on what `target_fd` (O_PATH will do) refers to, or on `name` in that directory, if that is no link."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | (0 if name else _MOVE_MOUNT_T_EMPTY_PATH)
    _checked(_move_mount(mount_fd, b"", target_fd, os.fsencode(name), flags), name or None)


def map_mount(fd: int, user_namespace: int) -> None:
    """Show the files of a detached tree of mounts with the owners that they have by the map of a user namespace."""
    change = _MountAttr(MOUNT_ATTR_IDMAP, 0, 0, user_namespace)
    _checked(_mount_setattr(fd, b"", AT_EMPTY_PATH | AT_RECURSIVE, change, ctypes.sizeof(change)))


def mount_setattr(fd: int, attr_set: int, attr_clear: int = 0, propagation: int = 0, *, recursive: bool) -> None:
    """Change the attributes of the mount that `fd` is the root of."""
    change = _MountAttr(attr_set, attr_clear, propagation, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _checked(_mount_setattr(fd, b"", flags, change, ctypes.sizeof(change)))
