"""`mooraged`: the process around the daemon: arguments, directories, the lock, signals, and the order of starting and ending."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from prometheus_client import start_http_server

from moorage.server import config as configuration
from moorage.server import logging_setup
from moorage.server.config import Config
from moorage.server.daemon import Daemon, assemble, furnish
from moorage.server.engine import commands
from moorage.server.engine.engine import Engine, Lane
from moorage.server.engine.job import Context
from moorage.server.engine.metrics import Metrics
from moorage.server.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MoorageError,
    NotFound,
    Unavailable,
)
from moorage.server.model import ExitStatus
from moorage.v1.version import VERSION

log = logging.getLogger("moorage")

DAEMON = Context("daemon")
FIREWALL_CHECK_SECONDS = 5.0


async def serve(config: Config, daemon: Daemon) -> None:
    """Recover, serve until `daemon.api.stop()`, then let everything end in order; containers run on."""
    loop = asyncio.get_running_loop()
    daemon.containers.open(loop)
    reaping: set[asyncio.Task[None]] = set()
    recovered = asyncio.Event()

    def on_exit(pod_id: str, container_id: str, status: ExitStatus) -> None:
        task = loop.create_task(_reap(daemon.engine, recovered, container_id, status))
        reaping.add(task)
        task.add_done_callback(reaping.discard)

    async with AsyncExitStack() as stack:
        await daemon.rooms.exec_driver.open(on_exit)
        stack.push_async_callback(daemon.rooms.exec_driver.close)
        pods = await daemon.rooms.exec_driver.recover()
        await asyncio.to_thread(daemon.recovery.run, pods)
        recovered.set()
        if config.metrics:
            _serve_metrics(config.metrics, daemon.metrics)
        guard = loop.create_task(_guard_firewall(daemon))
        stack.callback(guard.cancel)
        try:
            await daemon.engine.run(commands.ServeApi(config.addresses), DAEMON)
        finally:
            await daemon.engine.shutdown(config.shutdown_seconds)
            await asyncio.to_thread(_leave_host, config, daemon)


async def _until_signal(config: Config, daemon: Daemon) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, daemon.api.stop)
    await serve(config, daemon)


def _leave_host(config: Config, daemon: Daemon) -> None:
    """A daemon without running containers and pods leaves nothing on the host: the next start makes it again."""
    if any(container.state == "running" for container in daemon.containers.all()) or any(
        pod.held for pod in daemon.pods.all()
    ):
        return
    for driver in daemon.rooms.network_drivers.values():
        driver.destroy()
    daemon.rooms.cgroups.prune(f"/{config.instance}")


async def _reap(engine: Engine, recovered: asyncio.Event, container_id: str, status: ExitStatus) -> None:
    """Handle an end, once recovery, which takes no locks, is done with what it ends itself.

    One that cannot be handled now, because the daemon stops, is found by the next one: the supervisor keeps it.
    """
    await recovered.wait()
    try:
        await engine.run(commands.Reap(container_id, status), DAEMON)
    except NotFound:
        log.debug("removed before it was reaped", extra={"container": container_id})
    except Unavailable:
        log.info("left for the next start", extra={"container": container_id})
    except MoorageError as error:
        log.error("cannot reap", extra={"container": container_id, "error": error.message})


async def _guard_firewall(daemon: Daemon) -> None:
    """Whoever flushes the host's rules takes ours too: put them back."""
    drivers = list(daemon.rooms.network_drivers.values())
    while True:
        await asyncio.sleep(FIREWALL_CHECK_SECONDS)
        try:
            restored = await daemon.engine.blocking(Lane.KERNEL, lambda: [d.name for d in drivers if d.check()])
        except MoorageError as error:
            log.error("cannot check the firewall", extra={"error": error.message})
            continue
        if restored:
            log.warning("network was changed by others and is restored", extra={"drivers": restored})


def _serve_metrics(address: str, metrics: Metrics) -> None:
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise InvalidArgument(f"metrics must be host:port, not {address!r}")
    try:
        start_http_server(int(port), host or "127.0.0.1", registry=metrics.registry)
    except OSError as error:
        raise AlreadyExists(f"cannot serve metrics on {address}: {error.strerror}") from error


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
            asyncio.run(_until_signal(config, assemble(config, furnish(config, stack), stack)))
    except MoorageError as error:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        sys.stderr.write(f"mooraged: {error.message}\n{hint}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
