"""Compiled filters, run by a small interpreter of the BPF that seccomp allows."""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.server.libcontainer import capabilities, seccomp, seccomp_compact, seccomp_default
from moorage.server.libcontainer.seccomp_default import AF_VSOCK, default_profile

X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
X32 = 0x40000000
ALLOW, KILL = 0x7FFF0000, 0
EPERM, ENOSYS = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
SOCKET, CLONE, MOUNT, PERSONALITY, REBOOT, UNSHARE, CLONE3 = 41, 56, 165, 135, 169, 272, 435
READ, CLOCK_SETTIME, KEYCTL, BPF, IO_URING_SETUP = 0, 227, 250, 321, 425
CLONE_VM, CLONE_FS, CLONE_NEWNS, CLONE_NEWUSER, SIGCHLD = 0x100, 0x200, 0x20000, 0x10000000, 17

JUMPS: dict[int, Callable[[int, int], bool]] = {
    0x15: lambda a, k: a == k,
    0x25: lambda a, k: a > k,
    0x35: lambda a, k: a >= k,
    0x45: lambda a, k: bool(a & k),
}


@cache
def decoded(program: bytes) -> list[tuple[int, int, int, int]]:
    return list(seccomp_compact.INSTRUCTION.iter_unpack(program))


def run(program: bytes, number: int, *args: int, arch: int = X86_64) -> int:
    """What the kernel would do: the filter's 32-bit result."""
    padded = [*args, *[0] * (6 - len(args))]
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    instructions = decoded(program)
    accumulator, position = 0, 0
    while True:
        code, if_true, if_false, k = instructions[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x05:
            position += k
        elif code in JUMPS:
            position += if_true if JUMPS[code](accumulator, k) else if_false
        elif code == 0x06:
            return int(k)
        else:
            raise AssertionError(f"instruction {code:#x} at {position - 1}")


@pytest.fixture(scope="module")
def default() -> bytes:
    return seccomp.compile(default_profile(capabilities.DEFAULT, "x86_64"))


@pytest.fixture(scope="module")
def with_every_capability() -> bytes:
    return seccomp.compile(default_profile(frozenset(capabilities.ALL), "x86_64"))


def test_ordinary_calls_are_allowed(default: bytes) -> None:
    assert run(default, READ) == ALLOW


@pytest.mark.parametrize("number", [MOUNT, REBOOT, CLOCK_SETTIME, KEYCTL, BPF, IO_URING_SETUP])
def test_dangerous_calls_are_refused(default: bytes, number: int) -> None:
    assert run(default, number) == EPERM


@pytest.mark.parametrize("number", [MOUNT, REBOOT, CLOCK_SETTIME, BPF, CLONE3])
def test_capabilities_bring_calls_back(with_every_capability: bytes, number: int) -> None:
    assert run(with_every_capability, number) == ALLOW


@pytest.mark.parametrize("number", [KEYCTL, IO_URING_SETUP])
def test_no_capability_brings_these_back(with_every_capability: bytes, number: int) -> None:
    assert run(with_every_capability, number) == EPERM


def test_clone_without_new_namespaces(default: bytes) -> None:
    assert run(default, CLONE, CLONE_VM | CLONE_FS | SIGCHLD) == ALLOW
    assert run(default, CLONE, CLONE_NEWUSER | SIGCHLD) == EPERM
    assert run(default, UNSHARE, CLONE_FS) == ALLOW
    assert run(default, UNSHARE, CLONE_FS | CLONE_NEWNS) == EPERM
    assert run(default, CLONE3) == ENOSYS


def test_namespaces_with_sys_admin(with_every_capability: bytes) -> None:
    assert run(with_every_capability, CLONE, CLONE_NEWUSER | SIGCHLD) == ALLOW
    assert run(with_every_capability, UNSHARE, CLONE_NEWNS) == ALLOW


@pytest.mark.parametrize(
    ("persona", "result"), [(0, ALLOW), (0xFFFFFFFF, ALLOW), (0x0040000, EPERM), (0x400000, EPERM)]
)
def test_personality_is_restricted(default: bytes, persona: int, result: int) -> None:
    assert run(default, PERSONALITY, persona) == result


def test_every_socket_family_but_vsock(default: bytes) -> None:
    refused = {family for family in range(64) if run(default, SOCKET, family) != ALLOW}
    assert refused == {40}


@given(st.integers(0, 2**32 - 1))
def test_vsock_is_refused_whatever_the_upper_half(default: bytes, upper: int) -> None:
    assert run(default, SOCKET, upper << 32 | 40) == EPERM
    assert run(default, SOCKET, upper << 32 | 2) == ALLOW


def test_calls_newer_than_libseccomp_do_not_exist(default: bytes) -> None:
    assert run(default, 1000) == ENOSYS
    assert run(default, 0x40000000 + 1000) == EPERM


def test_other_architectures(default: bytes) -> None:
    i386_mount, i386_read, aarch64 = 21, 3, 0xC00000B7
    assert run(default, i386_read, arch=I386) == ALLOW
    assert run(default, i386_mount, arch=I386) == EPERM
    assert run(default, READ, arch=aarch64) == KILL


def profile(*syscalls: dict[str, Any], default_action: str = "SCMP_ACT_ALLOW") -> dict[str, Any]:
    return {"defaultAction": default_action, "syscalls": list(syscalls)}


def test_unknown_names_are_skipped() -> None:
    program = seccomp.compile(profile({"names": ["no_such_call", "mount"], "action": "SCMP_ACT_KILL_PROCESS"}))
    assert run(program, MOUNT) == 0x80000000
    assert run(program, READ) == ALLOW


def test_errno_is_the_one_asked_for() -> None:
    rule = {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EACCES}
    assert run(seccomp.compile(profile(rule)), MOUNT) == 0x00050000 | errno.EACCES


def test_default_errno() -> None:
    program = seccomp.compile({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno.EIO})
    assert run(program, READ) == 0x00050000 | errno.EIO


def test_two_comparisons_of_one_argument_are_alternatives() -> None:
    args = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (1, 2)]
    program = seccomp.compile(profile({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": args}))
    assert [run(program, READ, value) for value in range(4)] == [ALLOW, EPERM, EPERM, ALLOW]


def test_comparisons_of_several_arguments_must_all_hold() -> None:
    args = [{"index": index, "value": 7, "op": "SCMP_CMP_EQ"} for index in (0, 1)]
    program = seccomp.compile(profile({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": args}))
    assert [run(program, READ, 7, 7), run(program, READ, 7, 0)] == [EPERM, ALLOW]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({}, "unknown seccomp action None"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "unknown seccomp action 'SCMP_ACT_NOTIFY'"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]}, "architecture 'SCMP_ARCH_PDP11'"),
        (
            profile({"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "op": "like"}]}),
            "unknown seccomp operator 'like'",
        ),
        (
            profile({"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}),
            "index 6",
        ),
    ],
)
def test_invalid_profiles_are_named(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(seccomp.SeccompError, match=message):
        seccomp.compile(broken)


# --- shorter programs --------------------------------------------------------------------------------------------------

NAMES = sorted({*seccomp_default.ALLOWED, "mount", "clone", "keyctl", "bpf", "reboot", "no_such_call"})
NUMBERS = (*range(520), *range(X32, X32 + 560), X32 - 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
VALUES = (0, 1, AF_VSOCK, 0x28 | 1 << 32, CLONE_NEWUSER, 0x20008, 0xFFFFFFFF, (1 << 64) - 1)
bounds = st.tuples(st.integers(0, len(NAMES)), st.integers(0, len(NAMES)))
names: st.SearchStrategy[Any] = bounds.map(lambda pair: NAMES[min(pair) : max(pair) + 1])
comparisons: st.SearchStrategy[Any] = st.builds(
    dict,
    index=st.integers(0, 5),
    value=st.sampled_from(VALUES),
    valueTwo=st.sampled_from(VALUES),
    op=st.sampled_from(sorted(seccomp.OPERATORS)),
)
rules: st.SearchStrategy[Any] = st.builds(
    dict,
    names=names,
    action=st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_TRAP"]),
    args=st.lists(comparisons, max_size=2),
)
profiles: st.SearchStrategy[Any] = st.builds(
    dict,
    defaultAction=st.sampled_from(["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS"]),
    architectures=st.sampled_from([[], ["SCMP_ARCH_X86_64"], seccomp_default.ARCHITECTURES["x86_64"]]),
    syscalls=st.lists(rules, max_size=6),
)


def same_answers(long: bytes, short: bytes, draw: random.Random) -> None:
    for arch in (X86_64, I386, AARCH64, 0, 0xFFFFFFFF):
        for number in NUMBERS:
            args = [draw.choice(VALUES) for _ in range(6)]
            assert run(long, number, *args, arch=arch) == run(short, number, *args, arch=arch), (
                hex(arch),
                number,
                args,
            )


def as_libseccomp_has_it(profile: dict[str, Any]) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seccomp, "compact", lambda program: program)
        return seccomp.compile(profile)


@pytest.mark.parametrize("granted", [frozenset(), capabilities.DEFAULT, frozenset(capabilities.ALL)])
def test_a_shorter_program_answers_the_same(granted: frozenset[str]) -> None:
    profile = default_profile(granted, "x86_64")
    long, short = as_libseccomp_has_it(profile), seccomp.compile(profile)
    assert len(short) * 2 < len(long)
    same_answers(long, short, random.Random(7))


@settings(max_examples=30, deadline=None)
@given(profiles, st.integers(0, 1 << 32))
def test_a_shorter_program_of_any_profile_answers_the_same(profile: dict[str, Any], seed: int) -> None:
    try:
        long = as_libseccomp_has_it(profile)
    except seccomp.SeccompError:
        return  # rules that libseccomp has no way to put together
    short = seccomp.compile(profile)
    assert len(short) <= len(long)
    same_answers(long, short, random.Random(seed))


@pytest.mark.parametrize("code", [0x45, 0x54, 0x30, 0x07])
def test_a_program_of_another_kind_is_left_alone(code: int) -> None:
    """A bit test of the number, arithmetic with it, a load of a byte, a register."""
    instructions = [(0x20, 0, 0, 0), (code, 0, 0, 0x40), (0x15, 0, 1, 1), (0x06, 0, 0, KILL), (0x06, 0, 0, ALLOW)]
    program = b"".join(seccomp_compact.INSTRUCTION.pack(*each) for each in instructions)
    assert seccomp_compact.compact(program) == program
