"""Debian's containerd, driven by its `ctr`: with its own root, state and socket below one directory, and no trace after."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMESPACE = "moorage"
START_SECONDS = 30

# In a mount namespace of its own, so that nothing stays mounted whatever happens.
_SHOWN = """
import json, subprocess, sys
from tests.archives import describe_tree
ctr, reference, target = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
subprocess.run([*ctr, "images", "mount", reference, target], check=True, stdout=subprocess.DEVNULL)
print(json.dumps(describe_tree(target)))
"""


class Ctr:
    """A containerd. References are whole: `127.0.0.1:5000/team/app:1`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._command = ["ctr", "--address", str(directory / "containerd.sock"), "--namespace", NAMESPACE]

    @classmethod
    @contextmanager
    def running(cls, directory: Path) -> Iterator[Ctr]:
        """Answers when it does."""
        (directory / "config.toml").write_text(
            f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{directory}/containerd.sock"\n'
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{directory}/opt"\n'
        )
        with open(directory / "log", "wb") as log:
            process = subprocess.Popen(
                ["containerd", "--config", str(directory / "config.toml")], stdout=log, stderr=log
            )
        ctr = cls(directory)
        try:
            end = time.monotonic() + START_SECONDS
            while ctr._run("version", check=False).returncode:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError((directory / "log").read_text())
                time.sleep(0.05)
            yield ctr
        finally:
            process.terminate()
            process.wait(30)

    def pull(self, reference: str) -> str:
        """Pull and unpack; answers the digest of what the name points to."""
        self._run("images", "pull", "--plain-http", reference)
        listed = self._run("images", "ls", f"name=={reference}").stdout.splitlines()
        return listed[1].split()[2]

    def run(self, reference: str, *command: str) -> str:
        """What a container of the image prints."""
        return self._run("run", "--rm", "--cgroup", "", reference, "moorage-interop", *command).stdout

    def tree(self, reference: str) -> dict[str, dict[str, Any]]:
        """The image's files, as `archives.describe_tree` tells of them."""
        # The target is also the key of the snapshot that is mounted.
        target = Path(tempfile.mkdtemp(prefix="mnt-", dir=self._directory))
        arguments = [json.dumps(self._command), reference, str(target)]
        shown = subprocess.run(
            ["unshare", "--mount", sys.executable, "-c", _SHOWN, *arguments],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        tree: dict[str, dict[str, Any]] = json.loads(shown.stdout)
        return tree

    def _run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"ctr {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done
