"""Run the commands the README shows, against a daemon and a registry of their own, and compare what they print.

Every ```console block is one session: a line that starts with `$ ` is a command, the lines below it are its output, in which `…`
stands for anything and the number of spaces does not count. Commands must succeed, or exit as a line `(exit N)` below them says. The
daemon's address is put in place of the default one; images of docker.io come from a registry on loopback. Commands whose program is
not installed are skipped, and that is said.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.daemon import Daemon
from tests.images import build_busybox, push
from tests.registry import LoopbackRegistry

README = Path(__file__).resolve().parents[1] / "README.md"
DEFAULT_HOST = "unix:///run/moorage/moorage.sock"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXIT = re.compile(r"\(exit (\d+)\)")
SECONDS = 60


@dataclass
class Command:
    """A command, what it should print (a line each) and how it should exit."""

    text: str
    output: list[str] = field(default_factory=list)
    exit: int = 0

    @property
    def program(self) -> str:
        return shlex.split(self.text)[0]

    def faults(self, status: int, printed: str) -> list[str]:
        """What is not as the README says."""
        found = [] if status == self.exit else [f"exit {status} instead of {self.exit}"]
        pattern = "\n".join(re.escape(_words(line)).replace("…", ".*") for line in self.output)
        lines = "\n".join(_words(line) for line in printed.rstrip().splitlines())
        if self.output and not re.fullmatch(pattern, lines, re.DOTALL):
            found.append("another output")
        return found


def _words(line: str) -> str:
    """A line with one space where there are more: the width of a column is no promise."""
    return " ".join(line.split())


def commands(text: str) -> Iterator[Command]:
    """The commands of a README, in order."""
    for block in BLOCK.findall(text):
        command: Command | None = None
        for line in block.splitlines():
            if line.startswith("$ "):
                if command:
                    yield command
                command = Command(line[2:])
            elif command and (match := EXIT.fullmatch(line)):
                command.exit = int(match[1])
            elif command and command.text.endswith("\\"):
                command.text += "\n" + line.removeprefix("> ")
            elif command:
                command.output.append(line)
        if command:
            yield command


def run(command: Command, environment: dict[str, str], host: str) -> list[str]:
    """Run it; answers what was wrong."""
    done = subprocess.run(
        ["/bin/bash", "-c", command.text.replace(DEFAULT_HOST, host)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    faults = command.faults(done.returncode, done.stdout)
    print(f"$ {command.text}\n{done.stdout}", end="", flush=True)
    return [f"{command.text}: {fault}" for fault in faults]


def main() -> int:
    if os.geteuid() != 0:
        print("readme: needs root, as containers do", file=sys.stderr)
        return 1
    faults: list[str] = []
    shown = list(commands(README.read_text()))
    with LoopbackRegistry() as registry, Daemon.temporary({"docker.io": registry.url}) as daemon:
        push(registry.url, "library/busybox", "latest", build_busybox())
        for command in shown:
            if shutil.which(command.program, path=daemon.environment["PATH"]) is None:
                print(f"$ {command.text}\n(skipped: {command.program} is not installed)")
                continue
            faults += run(command, daemon.environment, daemon.url)
    for fault in faults:
        print(f"readme: {fault}", file=sys.stderr)
    print(f"{len(shown)} commands of {README.name}, {len(faults)} not as shown")
    return 1 if faults or not shown else 0


if __name__ == "__main__":
    sys.exit(main())
