"""`mooraged`: the composition root. All wiring is here, in the order of the house: state, rooms, engine, API."""

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
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from prometheus_client import start_http_server

from moorage.server import config as configuration
from moorage.server import doctor, logging_setup
from moorage.server.api.images import ImageService
from moorage.server.api.network import NetworkService
from moorage.server.api.runtime import RuntimeService
from moorage.server.api.server import ApiServer
from moorage.server.api.system import SystemService
from moorage.server.config import Config
from moorage.server.engine import commands, handlers
from moorage.server.engine.containers import Containers
from moorage.server.engine.engine import Engine, Lane, Verb
from moorage.server.engine.events import EventLog
from moorage.server.engine.images import Images
from moorage.server.engine.job import Context
from moorage.server.engine.lifecycle import Lifecycle
from moorage.server.engine.listing import Listing
from moorage.server.engine.logs import Logs
from moorage.server.engine.metrics import Metrics
from moorage.server.engine.networks import Networks
from moorage.server.engine.recovery import Recovery
from moorage.server.engine.stats import Stats
from moorage.server.engine.streams import Streams
from moorage.server.engine.system import Setup, System
from moorage.server.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MoorageError, Unavailable
from moorage.server.execdriver.native import NativeDriver
from moorage.server.execdriver.spawner_client import SpawnerClient
from moorage.server.graph import drivers as graphdrivers
from moorage.server.graph.confined import ConfinedRunner
from moorage.server.graph.content import ContentStore
from moorage.server.graph.graph import Graph
from moorage.server.graph.graphdb import GraphDB
from moorage.server.libcontainer import cgroups
from moorage.server.model import ExitStatus
from moorage.server.networkdriver import drivers as networkdrivers
from moorage.server.networkdriver.bridge import BridgeDriver
from moorage.server.registry.client import Client
from moorage.server.registry.pull import Puller

log = logging.getLogger("moorage")

DAEMON = Context("daemon")
FIREWALL_CHECK_SECONDS = 5.0


@dataclass(frozen=True)
class Daemon:
    """What `main` drives; everything else hangs off these."""

    engine: Engine
    api: ApiServer
    containers: Containers
    recovery: Recovery
    exec_driver: NativeDriver
    bridge: BridgeDriver
    metrics: Metrics


def compose(config: Config, stack: ExitStack) -> Daemon:
    """Build the house. What must be closed goes on the stack."""
    root, state, instance = Path(config.root), Path(config.state), config.instance
    spawner = SpawnerClient()
    spawner.start()
    stack.callback(spawner.close)
    db = GraphDB(root / "graph.db")
    stack.callback(db.close)
    metrics = Metrics()
    engine = Engine(metrics)

    confined = ConfinedRunner(spawner.run_task)
    driver = graphdrivers.choose(config.graph_driver, root, confined)
    content = ContentStore(root / "content")
    graph = Graph(root, db, content, driver)
    registry = Client(config.registry)
    stack.callback(registry.close)
    exec_driver = NativeDriver(state, spawner)
    bridge = BridgeDriver(db, instance, **_pools(config))
    stack.callback(bridge.close)
    network_drivers = networkdrivers.table(db, bridge)
    manager = cgroups.detect()

    containers = Containers(db)
    images = Images(engine, graph, Puller(graph, registry), containers)
    networks = Networks(db, network_drivers, containers)
    lifecycle = Lifecycle(
        root=root,
        instance=instance,
        engine=engine,
        containers=containers,
        graph=graph,
        images=images.get,
        networks=networks,
        exec_driver=exec_driver,
    )
    stats = Stats(containers, manager, lifecycle.cgroup_path)
    stack.callback(stats.close)
    setup = Setup(
        config.root,
        config.state,
        instance,
        driver.name,
        exec_driver.name,
        config.addresses,
        lambda: _warnings(config.root),
    )
    table = handlers.table(
        containers=containers,
        lifecycle=lifecycle,
        listing=Listing(containers, graph, images.get),
        streams=Streams(engine, containers, exec_driver),
        logs=Logs(containers, lifecycle.log_path),
        stats=stats,
        events=EventLog(db),
        images=images,
        networks=networks,
        system=System(setup, engine, containers, graph, manager),
    )
    api = ApiServer(
        config,
        metrics,
        images=ImageService(engine),
        runtime=RuntimeService(
            engine, log_path=lifecycle.log_path, cgroup_path=lifecycle.cgroup_path, graph_driver=driver.name
        ),
        network=NetworkService(engine),
        system=SystemService(engine),
    )
    engine.register(
        [*table, Verb("serveapi", commands.ServeApi, api.serve, Lane.WAIT, lambda command: ",".join(command.listen))]
    )
    recovery = Recovery(
        instance=instance,
        containers=containers,
        lifecycle=lifecycle,
        networks=networks,
        graph=graph,
        exec_driver=exec_driver,
        cgroups=manager,
    )
    return Daemon(engine, api, containers, recovery, exec_driver, bridge, metrics)


async def run(config: Config, daemon: Daemon) -> None:
    """Recover, serve until a signal, then let everything end in order; containers run on."""
    loop = asyncio.get_running_loop()
    daemon.containers.open(loop)
    reaping: set[asyncio.Task[None]] = set()

    def on_exit(pod_id: str, container_id: str, status: ExitStatus) -> None:
        task = loop.create_task(_reap(daemon.engine, container_id, status))
        reaping.add(task)
        task.add_done_callback(reaping.discard)

    async with AsyncExitStack() as stack:
        await daemon.exec_driver.open(on_exit)
        stack.push_async_callback(daemon.exec_driver.close)
        pods = await daemon.exec_driver.recover()
        await asyncio.to_thread(daemon.recovery.run, pods)
        if config.metrics:
            _serve_metrics(config.metrics, daemon.metrics)
        guard = loop.create_task(_guard_firewall(daemon))
        stack.callback(guard.cancel)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, daemon.api.stop)
        try:
            await daemon.engine.run(commands.ServeApi(config.addresses), DAEMON)
        finally:
            await daemon.engine.shutdown(config.shutdown_seconds)


async def _reap(engine: Engine, container_id: str, status: ExitStatus) -> None:
    """An end that cannot be handled now, because the daemon stops, is found by the next one: the supervisor keeps it."""
    try:
        await engine.run(commands.Reap(container_id, status), DAEMON)
    except Unavailable:
        log.info("left for the next start", extra={"container": container_id})
    except MoorageError as error:
        log.error("cannot reap", extra={"container": container_id, "error": error.message})


async def _guard_firewall(daemon: Daemon) -> None:
    """Whoever flushes the host's rules takes ours too: put them back."""
    while True:
        await asyncio.sleep(FIREWALL_CHECK_SECONDS)
        try:
            restored = await daemon.engine.blocking(Lane.KERNEL, daemon.bridge.check)
        except MoorageError as error:
            log.error("cannot check the firewall", extra={"error": error.message})
            continue
        if restored:
            log.warning("firewall rules were gone and have been restored")


def _pools(config: Config) -> dict[str, Any]:
    """The pool that the configuration names, or the driver's own choice."""
    pool = config.network
    given: dict[str, Any] = {"prefix": pool.subnet_prefix} if pool.subnet_prefix else {}
    if pool.pool:
        try:
            given["pools"] = (IPv4Network(pool.pool),)
        except ValueError as error:
            raise InvalidArgument(f"[network] pool {pool.pool!r} is not a subnet: {error}") from error
    return given


def _warnings(root: str) -> tuple[str, ...]:
    """What the host lacks, and what that costs."""
    return tuple(
        f"{finding.name}: {finding.detail}; {finding.cost}" for finding in doctor.examine(root) if finding.state != "ok"
    )


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
    parser.add_argument("--graph-driver", choices=("auto", "overlay", "vfs"))
    parser.add_argument("--log-level", choices=configuration.LOG_LEVELS)
    parser.add_argument("--log-format", choices=("logfmt", "json"))
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve Prometheus metrics there")
    parser.add_argument("--channelz", action="store_true", default=None, help="serve grpc.channelz.v1")
    parser.add_argument(
        "--insecure-loopback", action="store_true", default=None, help="allow tcp:// without TLS on loopback addresses"
    )
    parser.add_argument("--version", action="version", version=f"mooraged {version('moorage')}")
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
            asyncio.run(run(config, compose(config, stack)))
    except MoorageError as error:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        sys.stderr.write(f"mooraged: {error.message}\n{hint}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
