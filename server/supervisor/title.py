"""What ps and top show of a process."""

from __future__ import annotations

import ctypes
import os
from functools import cache


@cache
def argument_area() -> tuple[int, int]:
    """Address and size of the arguments' strings, see proc(5), arg_start and arg_end. A fork has them at the same place."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    return start, end - start


def set_title(title: str) -> None:
    """Name the process, in `comm` (the kernel cuts it to 15 bytes) and over its arguments (cut to the room they had)."""
    text = title.encode()
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, text)
    os.close(fd)
    start, size = argument_area()
    if size > 0:
        ctypes.memmove(start, text[: size - 1].ljust(size, b"\0"), size)
