"""What an answer may hold of what a command printed."""

from __future__ import annotations

MAX_OUTPUT = (16 << 20) - 1024
"""What an answer of ExecSync may hold of stdout and stderr together: clients take messages of 16 MiB."""


def fitting(stdout: bytes, stderr: bytes) -> tuple[bytes, bytes]:
    """As much of both as one message holds. Neither can push out more than half of the other's."""
    out = stdout[: MAX_OUTPUT - min(len(stderr), MAX_OUTPUT // 2)]
    return out, stderr[: MAX_OUTPUT - len(out)]
