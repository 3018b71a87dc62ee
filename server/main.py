"""`mooraged`: the process around the daemon: arguments, directories, the lock, the spawner, and then all the rest (`serving.py`)."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from moorage.server import config as configuration
from moorage.server import logging_setup
from moorage.server.config import Config
from moorage.server.errors import FailedPrecondition, MoorageError
from moorage.server.execdriver.spawner_client import SpawnerClient
from moorage.v1.version import VERSION


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """One daemon a root: the second is refused with the first one's pid."""
    path = root / "mooraged.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode().strip() or "unknown"
            raise FailedPrecondition(
                f"another daemon runs on {root}: pid {pid}", hint="stop it, or choose another --root", pid=pid
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _prepare(config: Config) -> None:
    """Directories that only root may enter, and as many descriptors as the host allows."""
    if os.geteuid() != 0:
        raise FailedPrecondition(
            "mooraged must run as root", hint="containers need namespaces, mounts and cgroups; see `moorage doctor`"
        )
    os.umask(0o022)
    Path(config.root).mkdir(mode=0o700, parents=True, exist_ok=True)
    Path(config.root).chmod(0o700)
    Path(config.state).mkdir(mode=0o755, parents=True, exist_ok=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "mooraged", description="The Moorage daemon: runs containers and serves moorage.v1 over gRPC."
    )
    parser.add_argument(
        "--root", help=f"images, layers, containers, the database (default {configuration.DEFAULT_ROOT})"
    )
    parser.add_argument("--state", help="sockets (default /run/moorage)")
    parser.add_argument(
        "--listen", action="append", metavar="URL", help="unix:///path, tcp://host:port or fd://[name]; may be repeated"
    )
    parser.add_argument("--config", metavar="FILE.toml", help="configuration; the command line wins over it")
    parser.add_argument("--graph-driver", choices=("auto", "overlay", "btrfs", "vfs"))
    parser.add_argument("--log-level", choices=configuration.LOG_LEVELS)
    parser.add_argument("--log-format", choices=("logfmt", "json"))
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve Prometheus metrics there")
    parser.add_argument("--channelz", action="store_true", default=None, help="serve grpc.channelz.v1")
    parser.add_argument(
        "--insecure-loopback", action="store_true", default=None, help="allow tcp:// without TLS on loopback addresses"
    )
    parser.add_argument("--version", action="version", version=f"mooraged {VERSION}")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; answers its exit code."""
    arguments = vars(_arguments(argv))
    path = arguments.pop("config")
    if arguments["listen"] is not None:
        arguments["listen"] = tuple(arguments["listen"])
    try:
        config = configuration.load(path, arguments)
        logging_setup.setup(config.log_level, config.log_format)
        _prepare(config)
        with locked(Path(config.root)), ExitStack() as stack:
            spawner = SpawnerClient(config.spares)
            spawner.start()
            stack.callback(spawner.close)
            # Loaded now, while the spawner starts; nothing of it will be garbage.
            gc.disable()
            from moorage.server import serving

            serving.run(config, spawner, stack)
    except MoorageError as error:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        sys.stderr.write(f"mooraged: {error.message}\n{hint}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
