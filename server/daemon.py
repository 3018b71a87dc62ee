"""The composition root: all wiring is here, in the order of the house: state, rooms, engine, API."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from moorage.server import doctor, probes
from moorage.server.api.builds import BuildService
from moorage.server.api.cri import images as cri_images
from moorage.server.api.cri import runtime as cri_runtime
from moorage.server.api.cri.calls import Features, Setting
from moorage.server.api.images import ImageService
from moorage.server.api.network import NetworkService
from moorage.server.api.registry import RegistryService
from moorage.server.api.runtime import RuntimeService
from moorage.server.api.server import ApiServer
from moorage.server.api.system import SystemService
from moorage.server.builder.cache import BuildCache
from moorage.server.builder.run import Tools
from moorage.server.builder.running import Workshop
from moorage.server.builder.trees import Trees
from moorage.server.config import Config
from moorage.server.engine import commands, handlers
from moorage.server.engine.adjust import Adjust
from moorage.server.engine.archiving import Archiving
from moorage.server.engine.buildhouse import Parts
from moorage.server.engine.builds import Builds
from moorage.server.engine.containers import Containers
from moorage.server.engine.described import Described
from moorage.server.engine.engine import Engine, Lane, Verb
from moorage.server.engine.events import EventLog
from moorage.server.engine.fsck import Fsck
from moorage.server.engine.images import Images
from moorage.server.engine.lifecycle import Lifecycle
from moorage.server.engine.listing import Listing
from moorage.server.engine.logs import Logs
from moorage.server.engine.measures import Measures
from moorage.server.engine.metrics import Metrics
from moorage.server.engine.networks import Networks
from moorage.server.engine.places import Places
from moorage.server.engine.podlife import PodLife
from moorage.server.engine.pods import Pods
from moorage.server.engine.recovery import Recovery
from moorage.server.engine.registries import Registries
from moorage.server.engine.stats import Stats
from moorage.server.engine.store import Store
from moorage.server.engine.streams import Streams
from moorage.server.engine.system import Setup, System
from moorage.server.errors import InvalidArgument
from moorage.server.execdriver import runtimes
from moorage.server.execdriver.base import ExecDriver
from moorage.server.execdriver.native import NativeDriver
from moorage.server.execdriver.runtimes import Examined
from moorage.server.execdriver.spawner_client import SpawnerClient
from moorage.server.execdriver.spec import default_seccomp
from moorage.server.graph import drivers as graphdrivers
from moorage.server.graph.confined import ConfinedRunner, RunTask
from moorage.server.graph.content import ContentStore
from moorage.server.graph.graph import Graph
from moorage.server.graph.graphdb import GraphDB
from moorage.server.graph.indexes import Indexes
from moorage.server.libcontainer import cgroups
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.libcontainer.cgroups.figures import FigureReader
from moorage.server.model import Platform
from moorage.server.networkdriver import drivers as networkdrivers
from moorage.server.networkdriver.base import NetworkDriver
from moorage.server.networkdriver.bridge import BridgeDriver
from moorage.server.networkdriver.cni import CniDriver
from moorage.server.registry.buildcache import BuildCaches
from moorage.server.registry.client import Client
from moorage.server.registry.copying import Copier
from moorage.server.registry.indexes import Indexer
from moorage.server.registry.pull import Puller
from moorage.server.registry.push import Pusher
from moorage.server.streaming.server import StreamingServer
from moorage.v1.version import VERSION


@dataclass(frozen=True)
class Rooms:
    """The drivers and stores under the engine; tests put fakes in their place."""

    db: GraphDB
    graph: Graph
    puller: Puller
    registry: Client
    pusher: Pusher
    indexer: Indexer
    copier: Copier
    caches: BuildCaches
    exec_driver: ExecDriver
    network_drivers: Mapping[str, NetworkDriver]
    cgroups: CgroupManager
    run_task: RunTask
    runtimes: tuple[Examined, ...] = ()


@dataclass(frozen=True)
class Daemon:
    """What `main` drives; everything else hangs off these."""

    engine: Engine
    api: ApiServer
    containers: Containers
    pods: Pods
    recovery: Recovery
    rooms: Rooms
    metrics: Metrics


def furnish(config: Config, spawner: SpawnerClient, stack: ExitStack) -> Rooms:
    """The real rooms, on this host. What must be closed goes on the stack; the spawner is the caller's."""
    root, instance = Path(config.root), config.instance
    found = tuple(runtimes.examine(runtime) for runtime in config.runtimes)
    spawner.prime(default_seccomp())
    db = GraphDB(root / "graph.db")
    stack.callback(db.close)
    driver = graphdrivers.choose(config.graph_driver, root, ConfinedRunner(spawner.run_task), config.overlay)
    graph = Graph(root, db, ContentStore(root / "content"), driver)
    stack.callback(graph.close)
    registry = Client(config.registry)
    stack.callback(registry.close)
    bridge = BridgeDriver(db, instance, **_pools(config))
    stack.callback(bridge.close)
    puller = Puller(graph, registry)
    return Rooms(
        db=db,
        graph=graph,
        puller=puller,
        registry=registry,
        pusher=Pusher(puller.shared, registry),
        indexer=Indexer(puller.shared, registry),
        copier=Copier(puller.shared, registry),
        caches=BuildCaches(puller.shared, registry),
        exec_driver=NativeDriver(Path(config.state), spawner, config.runtimes),
        network_drivers=networkdrivers.table(
            db, bridge, CniDriver(db, config.network.cni_conf_dir, config.network.cni_bin_dirs)
        ),
        cgroups=cgroups.detect(),
        run_task=spawner.run_task,
        runtimes=found,
    )


def assemble(config: Config, rooms: Rooms, stack: ExitStack) -> Daemon:
    """The engine and the API over the rooms."""
    graph, exec_driver = rooms.graph, rooms.exec_driver
    metrics = Metrics()
    engine = Engine(metrics)
    containers, pods = Containers(rooms.db), Pods(rooms.db)
    places = Places(Path(config.root), config.instance, containers, pods)
    images = Images(engine, graph, rooms.puller, containers, config.registry.names())
    store = Store(graph, images, containers, rooms.cgroups, places.cgroup_path)
    networks = Networks(rooms.db, rooms.network_drivers, containers, config.network.pods)
    lifecycle = Lifecycle(
        engine=engine,
        places=places,
        containers=containers,
        pods=pods,
        graph=graph,
        images=images.get,
        networks=networks,
        exec_driver=exec_driver,
    )
    podlife = PodLife(
        engine=engine,
        places=places,
        pods=pods,
        containers=containers,
        lifecycle=lifecycle,
        networks=networks,
        exec_driver=exec_driver,
        cgroups=rooms.cgroups,
    )
    stats = Stats(containers, pods, rooms.cgroups, places)
    stack.callback(stats.close)
    indexes = Indexes(rooms.db)
    table = handlers.table(
        containers=containers,
        lifecycle=lifecycle,
        adjust=Adjust(containers, exec_driver, rooms.cgroups, places.cgroup_path),
        pods=pods,
        podlife=podlife,
        listing=Listing(containers, graph, images.get),
        streams=Streams(engine, containers, exec_driver),
        logs=Logs(containers, places.log_path),
        stats=stats,
        events=EventLog(rooms.db),
        images=images,
        registries=Registries(engine, images, indexes, rooms.registry, rooms.pusher, rooms.indexer, rooms.copier),
        builds=Builds(Parts(engine, images, containers, lifecycle, places, rooms.caches), _tools(config, rooms)),
        store=store,
        fsck=Fsck(engine, graph, rooms.puller, config.registry, containers.running),
        archiving=Archiving(
            engine, graph, images, containers, rooms.puller, rooms.registry, indexes, config.registry, store.frozen
        ),
        networks=networks,
        system=System(_setup(config, rooms), engine, containers, graph, rooms.cgroups, places.cgroup_path),
    )
    cri = _cri(config, engine, rooms)
    api = ApiServer(
        config,
        metrics,
        images=ImageService(engine),
        builds=BuildService(engine),
        runtime=RuntimeService(
            engine,
            log_path=places.log_path,
            cgroup_path=places.cgroup_path,
            graph_driver=graph.driver.name,
        ),
        network=NetworkService(engine),
        registry=RegistryService(engine),
        system=SystemService(engine),
        cri_images=cri_images.ImageService(cri),
        cri_runtime=cri_runtime.RuntimeService(cri),
        streaming=cri.streaming,
    )
    api.on_stopping = engine.dismiss
    serve = Verb("serveapi", commands.ServeApi, api.serve, Lane.WAIT, lambda command: ",".join(command.listen))
    measures = Measures(containers, pods, places, rooms.cgroups, FigureReader())
    described = Described(containers, pods, places, lifecycle)
    engine.register([*table, *measures.verbs(), *described.verbs(), serve])
    recovery = Recovery(
        instance=config.instance,
        places=places,
        containers=containers,
        pods=pods,
        lifecycle=lifecycle,
        podlife=podlife,
        networks=networks,
        graph=graph,
        exec_driver=exec_driver,
        cgroups=rooms.cgroups,
    )
    return Daemon(engine, api, containers, pods, recovery, rooms, metrics)


def _tools(config: Config, rooms: Rooms) -> Tools:
    """What builds share."""
    cache, trees = BuildCache(rooms.db, rooms.graph), Trees(rooms.run_task)
    cache.drop_unsafe()
    return Tools(rooms.graph, cache, trees, Workshop(Path(config.root), Path(config.state), trees), Platform())


def _cri(config: Config, engine: Engine, rooms: Rooms) -> Setting:
    """What Kubernetes' side of the API is made of."""
    cri = config.cri
    streaming = StreamingServer(
        address=cri.stream_address,
        tls=(cri.stream_cert, cri.stream_key) if cri.stream_cert else None,
        advertise=cri.stream_advertise or None,
    )
    features = Features(
        recursive_read_only=probes.has_syscall("mount_setattr"),
        user_namespaces=rooms.exec_driver.maps_owners(config.root),
        pressure=rooms.cgroups.version == 2,
    )
    network = rooms.network_drivers[config.network.pods]
    return Setting(engine, streaming, cri, Path(config.root), VERSION, network, features, rooms.runtimes)


def _setup(config: Config, rooms: Rooms) -> Setup:
    return Setup(
        root=config.root,
        state=config.state,
        instance=config.instance,
        graph_driver=rooms.graph.driver.name,
        exec_driver=rooms.exec_driver.name,
        listen=config.addresses,
        warnings=lambda: (*_warnings(config.root), *runtimes.lost(config.runtimes)),
        runtimes=rooms.runtimes,
    )


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
