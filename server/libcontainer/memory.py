"""The pages that a process shares with the one it was forked from, until it writes to them.

A page that is written to first is copied then, at some microseconds each, and a start writes to hundreds. Which ones they are is much
the same for all forks of a kind: one learns it, and those that come later copy them ahead, while nobody waits for them.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import FileIO

Span = tuple[int, int]
"""The address of its first byte, and its length in bytes."""

_PAGE = mmap.PAGESIZE
_MADV_POPULATE_WRITE = 23

# An entry of pagemap(5), see `Documentation/admin-guide/mm/pagemap.rst`.
_ENTRY = 8
_WHERE = 1 << 63 | (1 << 55) - 1
"""Whether the page is present, and in which frame: it has another one when it has been copied."""

_libc = ctypes.PyDLL(None)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


# The allocator of small objects, see `Include/internal/pycore_obmalloc.h`: pools of objects of one size.
_POOL = 16 << 10
_POOL_HEADER = 48
_ALIGNMENT = 16
_LARGEST = 512

_fillers: list[object] = []


def settle() -> None:
    """Lay out this process's memory for forks of it, which have no collector until they turn it on. Called once, before the first.

    A fork's own objects come to lie beside one another, and not in the gaps between those that it shares; and it writes to fewer of
    those. Both together are a fifth of the pages that it would copy.
    """
    gc.collect()
    # What a fork looks up anew takes the place of another entry in there, whose name is written to for that.
    sys._clear_type_cache()
    _fillers.extend(_fill_gaps())
    # A collection writes to every object it visits.
    gc.freeze()
    gc.disable()


def _fill_gaps() -> Iterator[object]:
    """Objects of each size, until the allocator begins another pool for it."""
    for size in range(_ALIGNMENT, _LARGEST + 1, _ALIGNMENT):
        for _ in range(_LARGEST * _ALIGNMENT):
            filler = _object_of(size)
            if id(filler) % _POOL == _POOL_HEADER:
                break
            yield filler


def _object_of(size: int) -> object:
    """One that takes `size` bytes, a multiple of 16."""
    if size == _ALIGNMENT:
        return object()
    # An integer of two digits takes 32 bytes, and no bytes object takes less than 33.
    return time.monotonic_ns() if size == 2 * _ALIGNMENT else bytes(size - sys.getsizeof(b""))


class WrittenPages:
    """What forks of one kind write to. Made before they are forked; memory that they share holds it."""

    _ROOM = 64 << 10

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, self._ROOM)

    def copy_ahead(self) -> Callable[[], None]:
        """Copy the pages that are known to be written to; until they are, nothing is copied ahead.

        The answer is to be called when the work is done that was to be ready for: the first who does that learns, and costs a
        millisecond. It needs nothing of the file system. Before Linux 5.14 nothing is copied ahead.
        """
        spans = self.known()
        for address, length in spans:
            _libc.madvise(address, length, _MADV_POPULATE_WRITE)
        return _nothing if spans else self._learner()

    def known(self) -> list[Span]:
        """What was learned, lowest first; empty while nothing was."""
        numbers = array("Q")
        (count,) = memoryview(self._shared)[:_ENTRY].cast("Q")
        numbers.frombytes(self._shared[_ENTRY : _ENTRY * (1 + 2 * count)])
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _learner(self) -> Callable[[], None]:
        regions = list(_writable())
        pagemap = FileIO("/proc/self/pagemap")
        before = [_frames(pagemap, region) for region in regions]

        def learn() -> None:
            with pagemap:
                after = [_frames(pagemap, region) for region in regions]
            self._keep(_spans(_changed(regions, before, after)))

        return learn

    def _keep(self, spans: list[Span]) -> None:
        if self.known():
            return
        numbers = array("Q", [number for span in spans for number in span][: self._ROOM // _ENTRY - 2])
        self._shared[_ENTRY : _ENTRY * (1 + len(numbers))] = numbers.tobytes()
        # Last: who reads a count finds what it counts.
        self._shared[:_ENTRY] = array("Q", [len(numbers) // 2]).tobytes()


def _nothing() -> None:
    pass


def _writable() -> Iterator[Span]:
    """The regions of this process's own memory that can be written to, see proc_pid_maps(5)."""
    with open("/proc/self/maps", "rb") as file:
        for line in file:
            span, access = line.split(None, 2)[:2]
            if access == b"rw-p":
                start, _, end = span.partition(b"-")
                yield int(start, 16), int(end, 16) - int(start, 16)


def _frames(pagemap: FileIO, region: Span) -> array[int]:
    """The entry of each page there."""
    address, length = region
    return array("Q", os.pread(pagemap.fileno(), length // _PAGE * _ENTRY, address // _PAGE * _ENTRY))


def _changed(regions: Sequence[Span], before: Sequence[array[int]], after: Sequence[array[int]]) -> Iterator[int]:
    """The numbers of the pages that have been copied, or come to be."""
    for (address, _), old, new in zip(regions, before, after, strict=True):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            if (one ^ other) & _WHERE:
                yield address // _PAGE + index


def _spans(pages: Iterable[int]) -> list[Span]:
    """Pages as spans, neighbours together."""
    spans: list[Span] = []
    for page in pages:
        if spans and page * _PAGE == sum(spans[-1]):
            spans[-1] = (spans[-1][0], spans[-1][1] + _PAGE)
        else:
            spans.append((page * _PAGE, _PAGE))
    return spans
