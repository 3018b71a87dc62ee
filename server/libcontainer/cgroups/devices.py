"""Device access on cgroup version 2: a BPF program that the kernel asks at every open and mknod.

See bpf(2), BPF_PROG_TYPE_CGROUP_DEVICE. The rules become a chain of comparisons, last rule first, as the last that applies
decides; where none applies access is denied.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from moorage.server.libcontainer.cgroups.base import CgroupError

BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2
SYS_BPF = {"x86_64": 321}.get(os.uname().machine, 280)

Rule = Mapping[str, Any]
"""One of OCI `linux.resources.devices`: allow, type, major, minor, access."""

ACCESS = {"m": 1, "r": 2, "w": 4}
KIND = {"b": 1, "c": 2}

INSTRUCTION = struct.Struct("=BBhi")
"""struct bpf_insn: code, destination and source register (4 bits each), offset, immediate."""
LOAD_WORD = 0x61
MOVE = 0xBC
MOVE_IMMEDIATE = 0xB4
AND_IMMEDIATE = 0x54
SHIFT_RIGHT_IMMEDIATE = 0x74
JUMP_NOT_EQUAL = 0x56
JUMP_EQUAL = 0x16
EXIT = 0x95

RESULT, CONTEXT, KIND_REGISTER, ACCESS_REGISTER, MAJOR, MINOR, SCRATCH = 0, 1, 2, 3, 4, 5, 6
"""Registers; the context is struct bpf_cgroup_dev_ctx {access << 16 | kind, major, minor}."""


def program(rules: Sequence[Rule]) -> bytes:
    """Instructions for OCI `linux.resources.devices`."""
    code = [
        _instruction(LOAD_WORD, KIND_REGISTER, CONTEXT),
        _instruction(MOVE, ACCESS_REGISTER, KIND_REGISTER),
        _instruction(AND_IMMEDIATE, KIND_REGISTER, immediate=0xFFFF),
        _instruction(SHIFT_RIGHT_IMMEDIATE, ACCESS_REGISTER, immediate=16),
        _instruction(LOAD_WORD, MAJOR, CONTEXT, 4),
        _instruction(LOAD_WORD, MINOR, CONTEXT, 8),
    ]
    for rule in reversed(rules):
        code += _rule(rule)
        if _applies_always(rule):
            break  # the verifier refuses instructions that cannot be reached
    else:
        code += _answer(False)
    return b"".join(code)


def _rule(rule: Rule) -> list[bytes]:
    """Comparisons that jump behind the rule's answer when it does not apply."""
    allow, kind = bool(rule.get("allow")), rule.get("type") or "a"
    tests = []
    if kind != "a":
        tests.append([_instruction(JUMP_NOT_EQUAL, KIND_REGISTER, immediate=KIND["b" if kind == "b" else "c"])])
    tests += _access_test(_access(rule), allow)
    for register, key in ((MAJOR, "major"), (MINOR, "minor")):
        if rule.get(key) not in (None, -1):
            tests.append([_instruction(JUMP_NOT_EQUAL, register, immediate=rule[key])])
    code = [instruction for test in tests for instruction in test] + _answer(allow)
    return [_to_end(instruction, len(code) - 1 - index) for index, instruction in enumerate(code)]


def _access_test(access: int, allow: bool) -> list[list[bytes]]:
    """An allowing rule applies when it covers all that is wanted, a denying one when it covers any of it."""
    if access == 7:
        return []
    outside = 7 & ~access
    return [
        [
            _instruction(MOVE, SCRATCH, ACCESS_REGISTER),
            _instruction(AND_IMMEDIATE, SCRATCH, immediate=outside if allow else access),
            _instruction(JUMP_NOT_EQUAL if allow else JUMP_EQUAL, SCRATCH, immediate=0),
        ]
    ]


def _access(rule: Rule) -> int:
    return sum(ACCESS[letter] for letter in set(rule.get("access") or "rwm"))


def _applies_always(rule: Rule) -> bool:
    wild = all(rule.get(key) in (None, -1) for key in ("major", "minor"))
    return wild and (rule.get("type") or "a") == "a" and _access(rule) == 7


def _answer(allow: bool) -> list[bytes]:
    return [_instruction(MOVE_IMMEDIATE, RESULT, immediate=int(allow)), _instruction(EXIT)]


def _to_end(instruction: bytes, distance: int) -> bytes:
    code, registers, _, immediate = INSTRUCTION.unpack(instruction)
    if code not in (JUMP_NOT_EQUAL, JUMP_EQUAL):
        return instruction
    return INSTRUCTION.pack(code, registers, distance, immediate)


def _instruction(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return INSTRUCTION.pack(code, source << 4 | destination, offset, immediate)


class _Load(ctypes.Structure):
    """union bpf_attr for BPF_PROG_LOAD, as far as it is used."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("instruction_count", ctypes.c_uint32),
        ("instructions", ctypes.c_void_p),
        ("license", ctypes.c_void_p),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log", ctypes.c_void_p),
        ("kernel_version", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    ]


class _Attach(ctypes.Structure):
    """union bpf_attr for BPF_PROG_ATTACH, as far as it is used."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("target_fd", "program_fd", "type", "flags")]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint]
_libc.syscall.restype = ctypes.c_long


def attach(directory: str, instructions: bytes) -> None:
    """Load the program and attach it to the cgroup; it lives as long as the cgroup."""
    program_fd = _load(directory, instructions)
    try:
        cgroup_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _bpf(BPF_PROG_ATTACH, _Attach(cgroup_fd, program_fd, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI), directory)
        finally:
            os.close(cgroup_fd)
    finally:
        os.close(program_fd)


def _load(directory: str, instructions: bytes) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = _Load(
        type=BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count=len(instructions) // INSTRUCTION.size,
        instructions=ctypes.addressof(code),
        license=ctypes.addressof(license),
    )
    return _bpf(BPF_PROG_LOAD, attributes, directory)


def _bpf(command: int, attributes: ctypes.Structure, directory: str) -> int:
    result: int = _libc.syscall(SYS_BPF, command, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if result < 0:
        raise CgroupError(ctypes.get_errno(), "set the device rules of", directory)
    return result
