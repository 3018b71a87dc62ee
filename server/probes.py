"""Questions to the kernel that change nothing: does it know a system call, a kind of link, nftables?

What would need a change is tried in a network namespace of a thread's own, which ends with the thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable

from moorage.server.libcontainer import syscalls

CLONE_NEWNET = 0x40000000

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NLMSG_HEADER = struct.Struct("=IHHII")
NLMSG_ERROR = 2
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

RTM_NEWLINK = 16
IFINFOMSG = struct.Struct("=BxHiII")
ATTRIBUTE = struct.Struct("=HH")
IFLA_LINKINFO = 18
IFLA_INFO_KIND = 1

NFT_MSG_GETGEN = 10 << 8 | 16
"""NFNL_SUBSYS_NFTABLES and the message that asks for the ruleset's generation."""
NFGENMSG = struct.Struct("=BBH")

SYSCALLS = {"pidfd_open": 434, "clone3": 435, "close_range": 436, "openat2": 437, "mount_setattr": 442}
"""The same numbers on every architecture (they came after the tables were unified)."""

GETDENTS64 = {"x86_64": 217, "aarch64": 61}
DIRENT_TYPE = 18
"""Offset of `d_type` in struct linux_dirent64."""

_libc = ctypes.CDLL(None, use_errno=True)


def has_syscall(name: str) -> bool:
    """Whether the kernel knows a system call and no filter hides it: it refuses arguments that make no sense, not the
    call.
    """
    ctypes.set_errno(0)
    # Descriptors, flags and sizes that no call accepts; close_range wants first <= last.
    nothing = ctypes.c_long(0)
    wrong = ctypes.c_long(-1)
    _libc.syscall(ctypes.c_long(SYSCALLS[name]), wrong, nothing, wrong, nothing, nothing)
    return ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM)


def tells_entry_types(directory: str) -> bool | None:
    """Whether reading a directory tells the entries' types (`d_type`), which overlay needs; None where that is not
    known.
    """
    number = GETDENTS64.get(os.uname().machine)
    if number is None:
        return None
    buffer = ctypes.create_string_buffer(4096)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        read = _libc.syscall(ctypes.c_long(number), ctypes.c_int(fd), buffer, ctypes.c_size_t(len(buffer)))
    finally:
        os.close(fd)
    return buffer.raw[DIRENT_TYPE] != 0 if read > DIRENT_TYPE else None


def has_library(name: str) -> bool:
    """Whether the dynamic loader finds a shared library."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def link_error(kind: str) -> int:
    """0 when a link of this kind (`bridge`, `veth`) can be made, else the errno: EOPNOTSUPP is a kernel without it."""
    info = _attribute(IFLA_INFO_KIND, kind.encode())
    body = IFINFOMSG.pack(0, 0, 0, 0, 0) + _attribute(IFLA_LINKINFO, info)
    return _apart(lambda: _ask(NETLINK_ROUTE, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body))


def nftables_error() -> int:
    """0 when the kernel speaks nftables, else the errno."""
    return _apart(lambda: _ask(NETLINK_NETFILTER, NFT_MSG_GETGEN, 0, NFGENMSG.pack(0, 0, 0)))


def _attribute(kind: int, value: bytes) -> bytes:
    padding = -len(value) % 4
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(padding)


def _ask(family: int, kind: int, flags: int, body: bytes) -> int:
    """The errno that a netlink message is answered with; 0 for an acknowledgement or any other answer."""
    header = NLMSG_HEADER.pack(NLMSG_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family) as link:
        link.settimeout(5)
        link.send(header + body)
        answer = link.recv(65536)
    if NLMSG_HEADER.unpack_from(answer)[1] != NLMSG_ERROR:
        return 0
    code: int = struct.unpack_from("=i", answer, NLMSG_HEADER.size)[0]
    return -code


def _apart(question: Callable[[], int]) -> int:
    """Ask from a new network namespace; answers an errno, that of getting there included."""
    answers = [errno.EIO]

    def run() -> None:
        try:
            syscalls.unshare(CLONE_NEWNET)
            answers.append(question())
        except OSError as error:
            answers.append(error.errno or errno.EIO)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return answers[-1]
