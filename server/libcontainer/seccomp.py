"""System call filters, see seccomp(2): an OCI `linux.seccomp` object in, a BPF program out.

libseccomp does the compiling (it knows the numbers of every architecture); the program is plain bytes then, so that it
is made once for each profile and only loaded when a container starts.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from moorage.server.libcontainer.seccomp_compact import (
    INSTRUCTION,
    JUMP_IF_EQUAL,
    JUMP_IF_GREATER_OR_EQUAL,
    LOAD_WORD,
    OFFSET_ARCH,
    OFFSET_NR,
    RETURN,
    compact,
)

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
BPF_MAXINSNS = 4096

SCMP_FLTATR_CTL_NNP = 3
SCMP_FLTATR_CTL_OPTIMIZE = 8
OPTIMIZE_BINARY_TREE = 2
NR_SCMP_ERROR = -1

ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")

OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}

X32_SYSCALL_BIT = 0x40000000


class SeccompError(ValueError):
    """The profile cannot be compiled; the message names the part that is wrong."""


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.POINTER(_Program), ctypes.c_ulong, ctypes.c_ulong]


def compile(profile: Mapping[str, Any]) -> bytes:
    """The BPF program (array of struct sock_filter) of an OCI `linux.seccomp` object.

    System calls that libseccomp does not know are skipped; those newer than libseccomp, on the native architecture,
    fail with ENOSYS where the default action is an errno: programs then fall back to what they used before, and EPERM
    would make them give up. Raises SeccompError for an invalid profile.
    """
    default = _action(profile.get("defaultAction"), profile.get("defaultErrnoRet"))
    with _context(default) as context:
        for name in profile.get("architectures") or ():
            _add_architecture(context, name)
        for rule in profile.get("syscalls") or ():
            _add_rule(context, rule, default)
        program = _export(context)
    if default & 0xFFFF0000 == ACTIONS["SCMP_ACT_ERRNO"]:
        program = _refuse_newer(program)
    program = compact(program)
    if len(program) // INSTRUCTION.size > BPF_MAXINSNS:
        raise SeccompError(
            f"seccomp profile is too large: {len(program) // INSTRUCTION.size} of {BPF_MAXINSNS} instructions"
        )
    return program


def load(program: bytes) -> None:
    """Filter the calling thread's system calls from now on, over execve(2) too.

    Needs CAP_SYS_ADMIN or no_new_privs. Raises OSError.
    """
    filter = _Program(len(program) // INSTRUCTION.size, program)
    if _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot load the seccomp filter: {os.strerror(number).lower()}")


@cache
def _libseccomp() -> ctypes.CDLL:
    """libseccomp.so.2, loaded when first needed: processes that only load programs do without."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise SeccompError(f"cannot compile seccomp profile: {error}") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_release.restype = None
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_arch_native.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_syscall_resolve_num_arch.argtypes = [ctypes.c_uint32, ctypes.c_int]
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


@contextmanager
def _context(default_action: int) -> Iterator[int]:
    library = _libseccomp()
    context = library.seccomp_init(default_action)
    if not context:
        raise SeccompError(f"libseccomp refuses the default action {default_action:#x}")
    try:
        _check(library.seccomp_attr_set(context, SCMP_FLTATR_CTL_NNP, 0), "no_new_privs off")
        # A list of comparisons would cost every allowed call some hundred instructions, the tree costs nine.
        _check(library.seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, OPTIMIZE_BINARY_TREE), "binary tree")
        yield context
    finally:
        library.seccomp_release(context)


def _add_architecture(context: int, name: str) -> None:
    token = _libseccomp().seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
    if not token:
        raise SeccompError(f"unknown seccomp architecture {name!r}")
    # EEXIST: the native architecture is there from the start.
    _check(_libseccomp().seccomp_arch_add(context, token), f"architecture {name}", errno.EEXIST)


def _add_rule(context: int, rule: Mapping[str, Any], default: int) -> None:
    action = _action(rule.get("action"), rule.get("errnoRet"))
    if action == default:
        return  # libseccomp refuses rules that say what holds anyway
    library = _libseccomp()
    comparisons = [_comparison(each) for each in rule.get("args") or ()]
    for name in rule.get("names") or ():
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == NR_SCMP_ERROR:
            continue
        for group in _alternatives(comparisons):
            array = (_Comparison * len(group))(*group)
            _check(library.seccomp_rule_add_array(context, action, number, len(group), array), f"rule for {name}")


def _alternatives(comparisons: Sequence[_Comparison]) -> list[Sequence[_Comparison]]:
    """One rule with all comparisons; but when one argument has two, a rule for each: OCI means "or" then."""
    indices = [each.arg for each in comparisons]
    if len(set(indices)) == len(indices):
        return [comparisons]
    return [[each] for each in comparisons]


def _comparison(arg: Mapping[str, Any]) -> _Comparison:
    operator = OPERATORS.get(arg.get("op", ""))
    if operator is None:
        raise SeccompError(f"unknown seccomp operator {arg.get('op')!r}")
    index = arg.get("index", -1)
    if not 0 <= index <= 5:
        raise SeccompError(f"seccomp argument index {index} is not in 0…5")
    return _Comparison(index, operator, arg.get("value", 0), arg.get("valueTwo", 0))


def _action(name: str | None, number: int | None) -> int:
    action = ACTIONS.get(name or "")
    if action is None:
        raise SeccompError(f"unknown seccomp action {name!r}")
    if name in WITH_ERRNO:
        return action | ((errno.EPERM if number is None else number) & 0xFFFF)
    return action


def _export(context: int) -> bytes:
    fd = os.memfd_create("moorage-seccomp", os.MFD_CLOEXEC)
    try:
        _check(_libseccomp().seccomp_export_bpf(context, fd), "export")
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def _refuse_newer(program: bytes) -> bytes:
    """Put "native system calls above the last that libseccomp knows: ENOSYS" before `program`."""
    native, beyond = _libseccomp().seccomp_arch_native(), _first_unknown()
    prologue = [
        (LOAD_WORD, 0, 0, OFFSET_ARCH),
        (JUMP_IF_EQUAL, 0, 4, native),
        (LOAD_WORD, 0, 0, OFFSET_NR),
        (JUMP_IF_GREATER_OR_EQUAL, 2, 0, X32_SYSCALL_BIT),
        (JUMP_IF_GREATER_OR_EQUAL, 0, 1, beyond),
        (RETURN, 0, 0, ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS),
    ]
    return b"".join(INSTRUCTION.pack(*each) for each in prologue) + program


@cache
def _first_unknown() -> int:
    """The number after the last native system call that libseccomp knows."""
    library = _libseccomp()
    native = library.seccomp_arch_native()
    return 1 + max(number for number in range(1024) if library.seccomp_syscall_resolve_num_arch(native, number))


def _check(result: int, what: str, *fine: int) -> None:
    if result < 0 and -result not in fine:
        raise SeccompError(f"libseccomp refuses {what}: {os.strerror(-result).lower()}")
