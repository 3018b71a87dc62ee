"""A daemon of its own, with its own root, state and socket below one directory, and the command line to talk to it.

with LoopbackRegistry() as registry, Daemon.temporary({"docker.io": registry.url}) as daemon:
    daemon.cli("pull", "busybox")
    daemon.cli("run", "--rm", "busybox", "true")
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PROGRAMS = Path(sys.executable).parent
START_SECONDS = 30
STOP_SECONDS = 60


class Daemon:
    """A `mooraged` process; `mirrors` maps registry hosts to the URL that serves their repositories, `settings` is more TOML."""

    def __init__(
        self,
        directory: Path,
        mirrors: Mapping[str, str] | None = None,
        *,
        settings: str = "",
        arguments: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.root, self.state = directory / "root", directory / "state"
        self.socket = directory / "moorage.sock"
        self.config, self.log = directory / "moorage.toml", directory / "mooraged.log"
        self.arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        tables = [
            f'[[registry.mirrors]]\nhost = "{host}"\nendpoints = ["{url}"]\n' for host, url in (mirrors or {}).items()
        ]
        self.config.write_text("\n".join([settings, *tables]))

    @classmethod
    @contextmanager
    def temporary(
        cls, mirrors: Mapping[str, str] | None = None, *, settings: str = "", arguments: Sequence[str] = ()
    ) -> Iterator[Daemon]:
        """A running daemon in a directory of its own; at the end its containers, the daemon and the directory are gone."""
        with TemporaryDirectory(prefix="moorage-") as directory:
            daemon = cls(Path(directory), mirrors, settings=settings, arguments=arguments)
            daemon.start()
            try:
                yield daemon
            finally:
                daemon.close()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the daemon does not run"
        return self._process.pid

    @property
    def environment(self) -> dict[str, str]:
        """The environment that lets a shell use this daemon by the bare words `moorage` and `mooraged`."""
        return {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "MOORAGE_HOST": self.url}

    def start(self) -> None:
        """Start it (again, on the same root); answers when it listens."""
        command = [
            str(PROGRAMS / "mooraged"),
            "--root",
            str(self.root),
            "--state",
            str(self.state),
            "--listen",
            self.url,
        ]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*command, "--config", str(self.config), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + START_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"mooraged does not listen:\n{self.log.read_text()}")
            time.sleep(0.005)

    def stop(self) -> int:
        """SIGTERM; answers its exit status. Containers run on."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL. Containers run on."""
        self._end(signal.SIGKILL)

    def cli(
        self, *arguments: str, check: bool = True, stdin: str | None = None, timeout: float = 100
    ) -> subprocess.CompletedProcess[str]:
        """Run `moorage` with these arguments; with `check`, a failure raises with all that was printed."""
        done = subprocess.run(
            [PROGRAMS / "moorage", *arguments],
            env=self.environment,
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"moorage {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def warm_up(self, image: str) -> None:
        """Pull an image and run it: the first container makes what stays until the daemon ends (bridge, parent cgroup)."""
        self.cli("pull", image)
        self.cli("run", "--rm", image, "true")

    def out(self, *arguments: str, stdin: str | None = None) -> str:
        """What `moorage` with these arguments prints to stdout, without the newline at the end."""
        return self.cli(*arguments, stdin=stdin).stdout.rstrip("\n")

    def popen(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`moorage` in the background, with pipes."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [PROGRAMS / "moorage", *arguments], env=self.environment, stdin=pipe, stdout=pipe, stderr=pipe
        )

    def inspect(self, name: str) -> dict[str, Any]:
        """What `moorage inspect` tells of a container, image or network."""
        found: dict[str, Any] = json.loads(self.out("inspect", "--format", "json", name))
        return found

    def remove_containers(self) -> None:
        """Remove every container, running or not."""
        if ids := self.out("ps", "-aq").split():
            self.cli("rm", "-f", *ids)

    def close(self) -> None:
        """Remove the containers and stop the daemon, which must exit 0. One that was killed is started again for that."""
        if self._process is None:
            self.start()
        try:
            self.remove_containers()
            status = self.stop()
        except BaseException:
            self.kill()
            raise
        assert status == 0, f"mooraged exited {status}:\n{self.log.read_text()[-4000:]}"

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    def _end(self, how: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(how)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None
