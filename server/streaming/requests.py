"""What a caller of the API was given a URL for. The callables do the work; the streaming server only carries bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from moorage.server.execdriver.base import ProcessStream

Kind = Literal["exec", "attach", "portforward"]


@dataclass(frozen=True)
class OpenExec:
    """A process to run. `connect` starts it once the client has opened its streams; the client is told a MoorageError of it."""

    connect: Callable[[], Awaitable[ProcessStream]]
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


@dataclass(frozen=True)
class OpenAttach:
    """A container to attach to.

    With `stdin_once` and without a terminal the end of the client's input closes the container's stdin. With `detaches` it is soon the end
    of the session: the container waits for the input of whoever comes next.
    """

    connect: Callable[[], Awaitable[ProcessStream]]
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False
    stdin_once: bool = False
    detaches: bool = False


@dataclass(frozen=True)
class OpenPortForward:
    """A pod's ports. `dial` connects to one inside the pod; it may raise a MoorageError or OSError. No `ports` means any."""

    dial: Callable[[int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
    ports: tuple[int, ...] = ()


OpenCommand = OpenExec | OpenAttach
Open = OpenExec | OpenAttach | OpenPortForward
