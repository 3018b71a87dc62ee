"""Prints what is done, as it is done: numbered steps with their durations, and the commands in them as one would type them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

COMMAND_SECONDS = 120
SHOWN_LINES = 12


class Unexpected(Exception):
    """The demo did not show what it is there to show."""


class Stage:
    """`environment` is what the commands run in."""

    def __init__(self) -> None:
        self.environment: Mapping[str, str] = {}
        self._number = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step; its duration is printed when it is done."""
        self._number += 1
        print(f"\n{self._number:2}. {title}", flush=True)
        begun = time.perf_counter()
        yield
        self.say(f"({(time.perf_counter() - begun) * 1e3:.0f} ms)")

    def say(self, text: str) -> None:
        print(f"    {text}", flush=True)

    def run(self, command: str, *, show: bool = True) -> str:
        """Run a line of shell and print what it prints; answers its stdout. A failure ends the demo."""
        self.say(f"$ {command}")
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        if done.returncode != 0:
            raise Unexpected(f"{command!r}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        if show:
            lines = (done.stdout + done.stderr).splitlines()
            for line in lines[:SHOWN_LINES]:
                self.say(f"  {line}")
            if len(lines) > SHOWN_LINES:
                self.say(f"  … {len(lines) - SHOWN_LINES} more lines")
        return done.stdout.rstrip("\n")

    def expect(self, truth: bool, words: str) -> None:
        """State what has been seen, or end the demo because it has not."""
        if not truth:
            raise Unexpected(f"this does not hold: {words}")
        self.say(f"✓ {words}")
