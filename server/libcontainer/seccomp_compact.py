"""Shorter programs for system call filters.

libseccomp compares with the numbers of system calls one by one, for each architecture. But most of a profile are runs of numbers that get
the same answer: a search among the runs takes a third of the instructions. The kernel checks and
compiles them all whenever a filter is loaded, which every container and every command in one waits for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence, Set
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

INSTRUCTION = struct.Struct("=HBBI")
"""struct sock_filter: code, jump if true, jump if false, k."""

LOAD_WORD, RETURN, JUMP = 0x20, 0x06, 0x05
JUMP_IF_EQUAL, JUMP_IF_GREATER, JUMP_IF_GREATER_OR_EQUAL = 0x15, 0x25, 0x35
OFFSET_NR, OFFSET_ARCH = 0, 4

_FAR = 256
"""As many instructions as conditional jumps reach in."""


class Instruction(NamedTuple):
    """One of struct sock_filter."""

    code: int
    if_true: int
    if_false: int
    k: int


Program = list[Instruction]
End = Instruction | int
"""An answer, or where a look at the arguments begins."""


class _Unusual(Exception):
    """The program does what those of libseccomp do not."""


def compact(program: bytes) -> bytes:
    """A program that answers the same for every system call with any arguments; the same one if it is of no kind that we know."""
    instructions = [Instruction(*each) for each in INSTRUCTION.iter_unpack(program)]
    try:
        shorter = _by_architecture(instructions)
    except _Unusual:
        return program
    return b"".join(INSTRUCTION.pack(*each) for each in shorter) if len(shorter) < len(instructions) else program


def _by_architecture(program: Program) -> Program:
    """Look at the architecture, then search among its numbers."""
    compared = set(_comparisons(program))
    numbers = {value for offset, value in compared if offset == OFFSET_NR}
    # No architecture has this number.
    code = _search(program, 0, numbers)
    for architecture in sorted(value for offset, value in compared if offset == OFFSET_ARCH):
        block = _search(program, architecture, numbers)
        code = [Instruction(JUMP_IF_EQUAL, 0, 1, architecture), Instruction(JUMP, 0, 0, len(code)), *code, *block]
    return [Instruction(LOAD_WORD, 0, 0, OFFSET_ARCH), *code]


def _search(program: Program, architecture: int, numbers: Set[int]) -> Program:
    """Find out in which run of numbers the system call's is, and do what is done with those. `numbers` are all that are compared with."""
    edges = sorted({0} | {edge for number in numbers for edge in (number, number + 1) if edge <= 0xFFFFFFFF})
    ends = [(edge, _end(program, architecture, edge)) for edge in edges]
    runs = ends[:1] + [(edge, end) for (_, before), (edge, end) in pairwise(ends) if end != before]
    return [Instruction(LOAD_WORD, 0, 0, OFFSET_NR), *_tree(program, runs)]


def _tree(program: Program, runs: Sequence[tuple[int, End]]) -> Program:
    """The search among runs of numbers, each with where it begins and its end."""
    code = _table(program, runs)
    if len(code) <= _FAR or len(runs) == 1:
        return code
    middle = len(runs) // 2
    below, above = _tree(program, runs[:middle]), _tree(program, runs[middle:])
    # As a conditional jump cannot skip that many.
    skip = Instruction(JUMP, 0, 0, len(below))
    return [Instruction(JUMP_IF_GREATER_OR_EQUAL, 0, 1, runs[middle][0]), skip, *below, *above]


def _table(program: Program, runs: Sequence[tuple[int, End]]) -> Program:
    """All comparisons, then each end once. Only right as long as no jump is too far."""
    ends = {end: _from(program, end) for _, end in runs}
    places = dict(zip(ends, accumulate(map(len, ends.values()), initial=len(runs) - 1), strict=False))
    comparisons: Program = []

    def search(runs: Sequence[tuple[int, End]]) -> int:
        """Where the search among these begins."""
        if len(runs) == 1:
            return places[runs[0][1]]
        here, middle = len(comparisons), len(runs) // 2
        comparisons.append(Instruction(0, 0, 0, 0))
        below, above = search(runs[:middle]) - here - 1, search(runs[middle:]) - here - 1
        comparisons[here] = Instruction(JUMP_IF_GREATER_OR_EQUAL, above, below, runs[middle][0])
        return here

    search(runs)
    return [*comparisons, *chain.from_iterable(ends.values())]


def _comparisons(program: Program) -> Iterator[tuple[int, int]]:
    """What architecture and number (by their offsets) are compared with, wherever that is. Raises _Unusual."""
    loaded: dict[int, int] = {0: -1}
    for at, (code, _, _, k) in enumerate(program):
        offset = k if code == LOAD_WORD else loaded.get(at, -1)
        if code in (JUMP_IF_EQUAL, JUMP_IF_GREATER, JUMP_IF_GREATER_OR_EQUAL) and offset in (OFFSET_NR, OFFSET_ARCH):
            yield offset, k
        for following in _following(program, at):
            if loaded.setdefault(following, offset) != offset and {offset, loaded[following]} & {
                OFFSET_NR,
                OFFSET_ARCH,
            }:
                loaded[following] = _join(program, following)


def _join(program: Program, at: int) -> int:
    """Where ways meet that have loaded different things, the next must be a load or an answer."""
    if program[at].code not in (LOAD_WORD, RETURN):
        raise _Unusual
    return -1


def _following(program: Program, at: int) -> tuple[int, ...]:
    code, if_true, if_false, k = program[at]
    if code == RETURN:
        return ()
    if code == JUMP:
        return (at + 1 + k,)
    if code & 0x07 == JUMP & 0x07:
        return (at + 1 + if_true, at + 1 + if_false)
    return (at + 1,)


def _end(program: Program, architecture: int, number: int) -> End:
    """What comes of a system call as far as these two numbers say."""
    at, value = 0, 0
    while True:
        code, if_true, if_false, k = program[at]
        if code == RETURN:
            return program[at]
        if code == LOAD_WORD and k not in (OFFSET_NR, OFFSET_ARCH):
            return at
        if code == LOAD_WORD:
            value = number if k == OFFSET_NR else architecture
            at += 1
        elif code == JUMP:
            at += 1 + k
        else:
            at += 1 + (if_true if _holds(code, value, k) else if_false)


def _holds(code: int, value: int, k: int) -> bool:
    if code == JUMP_IF_EQUAL:
        return value == k
    if code == JUMP_IF_GREATER:
        return value > k
    if code == JUMP_IF_GREATER_OR_EQUAL:
        return value >= k
    raise _Unusual


def _from(program: Program, end: End) -> Program:
    """That part of the program, on its own."""
    if isinstance(end, Instruction):
        return [end]
    reached = {end}
    for at in range(end, len(program)):
        if at in reached:
            reached.update(_following(program, at))
    kept = sorted(reached)
    place = {at: number for number, at in enumerate(kept)}
    return [_moved(program[at], at, place) for at in kept]


def _moved(instruction: Instruction, at: int, place: dict[int, int]) -> Instruction:
    code, if_true, if_false, k = instruction
    here = place[at] + 1
    if code == JUMP:
        return Instruction(code, 0, 0, place[at + 1 + k] - here)
    if code & 0x07 == JUMP & 0x07:
        return Instruction(code, place[at + 1 + if_true] - here, place[at + 1 + if_false] - here, k)
    return instruction
