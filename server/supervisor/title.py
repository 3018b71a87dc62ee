"""What ps and top show of a process."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from moorage.server.libcontainer import syscalls

PR_SET_NAME = 15


@functools.cache
def _argument_area() -> tuple[int, int]:
    """Address and size of the arguments' strings, see proc(5), arg_start and arg_end. A fork has them at the same place."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    return start, end - start


def set_title(title: str) -> None:
    """Name the process, in `comm` (cut to 15 bytes) and over its arguments (cut to the room they had)."""
    name = ctypes.create_string_buffer(title.encode()[:15])
    syscalls.prctl(PR_SET_NAME, ctypes.addressof(name))
    start, size = _argument_area()
    if size > 0:
        ctypes.memmove(start, title.encode()[: size - 1].ljust(size, b"\0"), size)
