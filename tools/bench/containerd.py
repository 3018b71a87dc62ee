"""containerd and runc, Debian's or those at a path: one of its own, with its own root, state, socket, CNI network and images, and no
trace after.

Its shims are not children of it and end up with init; they are told from anybody else's by the socket in their arguments.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.bench.cri import START_SECONDS, Cri, remove_cgroups
from tools.bench.process import with_argument

PROGRAM = "containerd"
BRIDGE = "moorage-bench0"
SUBNET = "10.213.0.0/20"
PLUGINS = "/usr/lib/cni"
CNI_CACHE = Path("/var/lib/cni")


class Containerd:
    """Implements `Server`."""

    def __init__(
        self, directory: Path, registry_url: str, hosts: Sequence[str], pause: str, program: str = PROGRAM
    ) -> None:
        """`program` is a command, or the path of a containerd whose shim is beside it."""
        self.directory = directory
        self._program = shutil.which(program) or program
        self.socket = directory / "containerd.sock"
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "net.d").mkdir()
        (directory / "net.d" / "10-bench.conflist").write_text(json.dumps(_network(directory)))
        for host in hosts:
            (directory / "certs.d" / host).mkdir(parents=True)
            (directory / "certs.d" / host / "hosts.toml").write_text(_mirror(registry_url))
        (directory / "config.toml").write_text(_config(directory, self.socket, pause))

    @classmethod
    @contextmanager
    def running(
        cls,
        name: str,
        directory: Path,
        registry_url: str,
        hosts: Sequence[str],
        image: str,
        pause: str,
        program: str = PROGRAM,
    ) -> Iterator[Cri]:
        """A containerd with all it has in `directory`, driven over CRI."""
        server = cls(directory, registry_url, hosts, pause, program)
        try:
            server.start()
            engine = Cri(name, server, image, directory / "logs")
            try:
                yield engine
            finally:
                engine.close()
        finally:
            server.close()

    @property
    def url(self) -> str:
        return f"unix:{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "containerd does not run"
        return self._process.pid

    def start(self) -> float:
        begun = time.perf_counter()
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._program, "--config", str(self.directory / "config.toml")],
                env={**os.environ, "PATH": f"{os.path.dirname(self._program)}:{os.environ['PATH']}"},
                stdout=log,
                stderr=log,
            )
        while not self._listens():
            if self._process.poll() is not None or time.perf_counter() - begun > START_SECONDS:
                raise RuntimeError((self.directory / "log").read_text())
            time.sleep(0.005)
        return begun

    def restart(self) -> float:
        self._stop()
        return self.start()

    def close(self) -> None:
        """Stop the daemon and its shims, and delete the bridge that the CNI plugin made."""
        self._stop()
        while shims := with_argument(str(self.socket)):
            for shim in shims:
                os.kill(shim, signal.SIGKILL)
            time.sleep(0.05)
        _unmount_below(self.directory)
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False, stderr=subprocess.DEVNULL)
        remove_cgroups()
        _remove_empty(CNI_CACHE / "results")
        _remove_empty(CNI_CACHE)

    def processes(self) -> list[int]:
        """The daemon and the shims. The pause processes, which the image decides on, are left out to containerd's favour."""
        return [self.pid, *with_argument(str(self.socket))]

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None


def version(program: str) -> str:
    """What it says it is. Raises OSError when it cannot be executed."""
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()


def _network(directory: Path) -> dict[str, object]:
    ipam = {
        "type": "host-local",
        "dataDir": str(directory / "ipam"),
        "routes": [{"dst": "0.0.0.0/0"}],
        "ranges": [[{"subnet": SUBNET}]],
    }
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": False, "ipam": ipam}
    return {"cniVersion": "0.4.0", "name": "moorage-bench", "plugins": [bridge]}


def _mirror(registry_url: str) -> str:
    return f'[host."{registry_url}"]\ncapabilities = ["pull", "resolve"]\n'


def _config(directory: Path, socket: Path, pause: str) -> str:
    """Of version 2, which 2.x takes too."""
    return f"""version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
disable_apparmor = true
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{directory}/net.d"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{directory}/certs.d"
"""


def _unmount_below(directory: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{directory}/")]):
        subprocess.run(["umount", "-l", mount], check=True)


def _remove_empty(directory: Path) -> None:
    """libcni's cache has a fixed place; it goes unless somebody else's results are in it."""
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
