"""Run the commands that README.md and docs/kubernetes.md show, against a daemon and a registry of their own, and compare what they print.

Every ```console block is one session: a line that starts with `$ ` is a command, the lines below it are its output, in which `…`
stands for anything and the number of spaces does not count. Commands must succeed, or exit as a line `(exit N)` below them says. The
daemon's address is put in place of the default ones; images of docker.io come from a registry on loopback. A session with a program that
is not installed is skipped, and that is said.
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

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs/kubernetes.md")
DEFAULT_HOST = re.compile(r"unix:///run/moorage/(moorage|cri)\.sock")
CRICTL = ROOT / "tools/packaging/crictl.yaml"
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
        """What is not as the page says."""
        found = [] if status == self.exit else [f"exit {status} instead of {self.exit}"]
        pattern = "\n".join(re.escape(_words(line)).replace("…", ".*") for line in self.output)
        lines = "\n".join(_words(line) for line in printed.rstrip().splitlines())
        if self.output and not re.fullmatch(pattern, lines, re.DOTALL):
            found.append("another output")
        return found


def _words(line: str) -> str:
    """A line with one space where there are more: the width of a column is no promise."""
    return " ".join(line.split())


def sessions(text: str) -> Iterator[list[Command]]:
    """The commands of a page's blocks, in order."""
    for block in BLOCK.findall(text):
        session: list[Command] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                session.append(Command(line[2:]))
            elif session and (match := EXIT.fullmatch(line)):
                session[-1].exit = int(match[1])
            elif session and session[-1].text.endswith("\\"):
                session[-1].text += "\n" + line.removeprefix("> ")
            elif session:
                session[-1].output.append(line)
        yield session


def run(command: Command, environment: dict[str, str], host: str) -> list[str]:
    """Run it; answers what was wrong."""
    done = subprocess.run(
        ["/bin/bash", "-c", DEFAULT_HOST.sub(host, command.text)],
        cwd=ROOT,
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
    ran = 0
    with LoopbackRegistry() as registry, Daemon.temporary({"docker.io": registry.url}) as daemon:
        push(registry.url, "library/busybox", "latest", build_busybox())
        crictl = daemon.directory / "crictl.yaml"
        crictl.write_text(DEFAULT_HOST.sub(daemon.url, CRICTL.read_text()))
        environment = {**daemon.environment, "CRI_CONFIG_FILE": str(crictl)}
        for session in (session for page in PAGES for session in sessions(page.read_text())):
            missing = {each.program for each in session if shutil.which(each.program, path=environment["PATH"]) is None}
            if missing:
                print(f"(skipped, for {', '.join(sorted(missing))} is not installed: {len(session)} commands)")
                continue
            for command in session:
                faults += run(command, environment, daemon.url)
                ran += 1
    for fault in faults:
        print(f"readme: {fault}", file=sys.stderr)
    print(f"{ran} commands of {' and '.join(page.name for page in PAGES)}, {len(faults)} not as shown")
    return 1 if faults or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
