"""A daemon at work: its order of starting and ending, what it does by itself meanwhile, and its metrics."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from contextlib import AsyncExitStack, ExitStack

from prometheus_client import start_http_server

from moorage.server.config import Config
from moorage.server.daemon import Daemon, assemble, furnish
from moorage.server.engine import commands
from moorage.server.engine.engine import Engine, Lane
from moorage.server.engine.job import Context
from moorage.server.engine.metrics import Metrics
from moorage.server.errors import AlreadyExists, InvalidArgument, MoorageError, NotFound, Unavailable
from moorage.server.execdriver.spawner_client import SpawnerClient
from moorage.server.model import ExitStatus

log = logging.getLogger("moorage")

DAEMON = Context("daemon")
FIREWALL_CHECK_SECONDS = 5.0


def run(config: Config, spawner: SpawnerClient, stack: ExitStack) -> None:
    """The daemon, from its rooms to its end. What must be closed goes on the stack."""
    daemon = assemble(config, furnish(config, spawner, stack), stack)
    # What is there now stays: the collector need not look at it again and again.
    gc.freeze()
    gc.enable()
    asyncio.run(_until_signal(config, daemon))


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
