"""What forks of one kind write to is learned by one, and copied ahead by the next."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable, Iterator

import pytest

from moorage.server.libcontainer.memory import WrittenPages

PAGE = mmap.PAGESIZE
PAGES = 64
WRITTEN, OTHER = (3, 7), 5


@pytest.fixture
def heap() -> Iterator[tuple[mmap.mmap, int]]:
    """Private memory that forks share until they write to it, and the number of its first page."""
    memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory.write(b"x" * PAGES * PAGE)
    yield memory, ctypes.addressof(ctypes.c_char.from_buffer(memory)) // PAGE


def frame(page: int) -> int:
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(page * 8)
        entry: int = struct.unpack("Q", file.read(8))[0]
    return entry & ((1 << 55) - 1)


def in_a_fork(work: Callable[[], object]) -> None:
    """Do it there; what fails there fails here."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def write(memory: mmap.mmap) -> None:
    for page in WRITTEN:
        memory[page * PAGE] = 0


def learn(pages: WrittenPages, memory: mmap.mmap) -> None:
    learned = pages.copy_ahead()
    write(memory)
    learned()


def test_what_one_fork_writes_to_the_next_copies_ahead(heap: tuple[mmap.mmap, int]) -> None:
    memory, first = heap
    pages = WrittenPages()

    in_a_fork(lambda: learn(pages, memory))
    known = {page for address, length in pages.known() for page in range(address // PAGE, (address + length) // PAGE)}
    assert known & set(range(first, first + PAGES)) == {first + page for page in WRITTEN}

    shared = {page: frame(first + page) for page in (*WRITTEN, OTHER)}
    assert all(shared.values()), "pagemap tells root the frames"

    def use() -> None:
        pages.copy_ahead()
        copied = {page for page in shared if frame(first + page) != shared[page]}
        assert copied == set(WRITTEN), copied

    in_a_fork(use)


def test_the_first_who_learned_is_heard(heap: tuple[mmap.mmap, int]) -> None:
    memory, _ = heap
    pages = WrittenPages()
    late = pages.copy_ahead()
    in_a_fork(lambda: learn(pages, memory))
    known = pages.known()
    assert known
    late()
    assert pages.known() == known
