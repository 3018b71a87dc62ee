"""The one table verb -> handler: the index of what the daemon can do.

Each row says what the verb runs, in which lane (how many of its kind at once), what it has for itself while it runs, and whether an
identical call joins one that still runs.
"""

from __future__ import annotations

from moorage.server.engine import buildcommands as b
from moorage.server.engine import commands as c
from moorage.server.engine import imagecommands as i
from moorage.server.engine import podcommands as p
from moorage.server.engine import registrycommands as r
from moorage.server.engine import storecommands as s
from moorage.server.engine.adjust import Adjust
from moorage.server.engine.archiving import Archiving
from moorage.server.engine.builds import Builds
from moorage.server.engine.containers import Containers
from moorage.server.engine.engine import Lane, Verb
from moorage.server.engine.events import EventLog
from moorage.server.engine.fsck import Fsck
from moorage.server.engine.images import Images
from moorage.server.engine.lifecycle import Lifecycle
from moorage.server.engine.listing import Listing
from moorage.server.engine.logs import Logs
from moorage.server.engine.networks import Networks
from moorage.server.engine.podlife import PodLife
from moorage.server.engine.pods import Pods, key
from moorage.server.engine.registries import Registries
from moorage.server.engine.stats import Stats
from moorage.server.engine.store import Store
from moorage.server.engine.streams import Streams
from moorage.server.engine.system import System


def table(
    *,
    containers: Containers,
    lifecycle: Lifecycle,
    adjust: Adjust,
    pods: Pods,
    podlife: PodLife,
    listing: Listing,
    streams: Streams,
    logs: Logs,
    stats: Stats,
    events: EventLog,
    images: Images,
    registries: Registries,
    store: Store,
    builds: Builds,
    archiving: Archiving,
    fsck: Fsck,
    networks: Networks,
    system: System,
) -> list[Verb]:
    """Every verb but `serveapi`, which the composition root adds."""

    def by_id(command: c.Start | c.Reap | c.Update | c.ReopenLog) -> str:
        return containers.resolve(command.id)

    def committed(command: s.Commit) -> str:
        return containers.resolve(command.container)

    def by_pod(command: p.UpdatePod) -> str:
        return pods.resolve(command.id)

    def pod(command: p.RunPod) -> str:
        return f"pod/{key(command.config)}"

    def pod_id(command: p.StopPod | p.RemovePod | p.UpdatePod | p.DialPod) -> str:
        return command.id

    def subject(
        command: c.Start
        | c.Stop
        | c.Kill
        | c.Remove
        | c.Reap
        | c.Wait
        | c.Top
        | c.Attach
        | c.Exec
        | c.ExecSync
        | c.Update
        | c.ReopenLog
        | c.Logs,
    ) -> str:
        return command.id

    def name(command: c.Create) -> str:
        if command.pod_id and not command.name:
            return f"name/{command.pod_id}/{command.config.metadata_name}/{command.config.metadata_attempt}"
        return f"name/{command.name}" if command.name else ""

    def network(command: c.CreateNetwork | c.RemoveNetwork) -> str:
        return command.name if isinstance(command, c.CreateNetwork) else command.network

    return [
        # containers
        Verb("create", c.Create, lifecycle.create, Lane.KERNEL, lambda x: x.name, name, join=lambda x: bool(name(x))),
        Verb("start", c.Start, lifecycle.start, Lane.KERNEL, subject, by_id),
        Verb("stop", c.Stop, lifecycle.stop, Lane.WAIT, subject),
        Verb("kill", c.Kill, lifecycle.kill, Lane.KERNEL, subject),
        Verb("rm", c.Remove, lifecycle.remove, Lane.WAIT, subject),
        Verb("reap", c.Reap, lifecycle.reap, Lane.KERNEL, subject, by_id),
        Verb("containers", c.ListContainers, listing.containers, Lane.READ),
        Verb("container_inspect", c.InspectContainer, listing.container, Lane.READ),
        Verb(
            "container_size",
            c.MeasureContainers,
            listing.usages,
            Lane.DISK,
            lambda x: x.ids[0] if x.ids[1:] == () else "",
        ),
        Verb("wait", c.Wait, listing.wait, Lane.WATCH, subject),
        Verb("top", c.Top, system.top, Lane.KERNEL, subject),
        Verb("update", c.Update, adjust.update, Lane.KERNEL, subject, by_id),
        Verb("log_reopen", c.ReopenLog, adjust.reopen_log, Lane.KERNEL, subject, by_id),
        # pods
        Verb("pod_run", p.RunPod, podlife.run, Lane.KERNEL, lambda x: key(x.config), pod, join=lambda _: True),
        Verb("pod_stop", p.StopPod, podlife.stop, Lane.WAIT, pod_id),
        Verb("pod_rm", p.RemovePod, podlife.remove, Lane.WAIT, pod_id),
        Verb("pods", p.ListPods, podlife.list, Lane.READ),
        Verb("pod_inspect", p.InspectPod, podlife.inspect, Lane.READ),
        Verb("pod_update", p.UpdatePod, podlife.update, Lane.KERNEL, pod_id, by_pod),
        Verb("pod_dial", p.DialPod, podlife.dial, Lane.KERNEL, pod_id),
        Verb("pod_stats", p.SamplePods, stats.pods, Lane.WAIT, lambda x: ",".join(x.ids)),
        # streams
        Verb("attach", c.Attach, streams.attach, Lane.WATCH, subject),
        Verb("exec", c.Exec, streams.exec, Lane.WAIT, subject),
        Verb("exec_sync", c.ExecSync, streams.exec_sync, Lane.WAIT, subject),
        Verb("logs", c.Logs, logs.stream, Lane.WATCH, subject),
        Verb("stats", c.Stats, stats.stream, Lane.WATCH, lambda x: ",".join(x.ids)),
        Verb("event_last", c.LastEvent, events.last, Lane.READ),
        Verb("events", c.Events, events.stream, Lane.WATCH, lambda x: x.object),
        # images
        Verb("pull", i.Pull, images.pull, Lane.WAIT, lambda x: x.reference),
        Verb("images", i.ListImages, images.images, Lane.READ),
        Verb("image_inspect", i.InspectImage, images.inspect, Lane.READ),
        Verb("image_users", i.ImageUsers, images.users, Lane.READ),
        Verb("image_delete", i.RemoveImage, images.remove, Lane.DISK, lambda x: x.reference),
        Verb("tag", s.Tag, store.tag, Lane.KERNEL, lambda x: x.source),
        Verb("history", s.History, store.history, Lane.KERNEL, lambda x: x.reference),
        Verb("save", s.Save, archiving.save, Lane.WAIT, lambda x: ",".join(x.references)),
        Verb("load", s.Load, archiving.load, Lane.WAIT),
        Verb("import", s.Import, archiving.import_, Lane.WAIT, lambda x: x.reference),
        Verb("export", s.Export, archiving.export, Lane.WAIT, lambda x: x.container),
        Verb("image_prune", s.PruneImages, store.prune, Lane.DISK),
        Verb("df", s.Measure, store.measure, Lane.DISK),
        Verb("fsck", s.CheckStore, fsck.check, Lane.WAIT),
        Verb("viz", s.Viz, store.viz, Lane.KERNEL),
        Verb("commit", s.Commit, store.commit, Lane.DISK, lambda x: x.container, committed),
        # builds
        Verb("build", b.Build, builds.build, Lane.WAIT, lambda x: ",".join(x.tags)),
        Verb("build_prune", b.PruneBuilds, builds.prune, Lane.DISK),
        # registries
        Verb("push", r.Push, registries.push, Lane.WAIT, lambda x: x.destination or x.reference),
        Verb("auth", r.Authenticate, registries.authenticate, Lane.LOOKUP, lambda x: x.registry),
        Verb("search", r.Search, registries.search, Lane.LOOKUP, lambda x: x.term),
        Verb("tags", r.ListTags, registries.tags, Lane.LOOKUP, lambda x: x.repository),
        Verb("catalog", r.ListRepositories, registries.repositories, Lane.LOOKUP, lambda x: x.registry),
        Verb("referrers", r.ListReferrers, registries.referrers, Lane.LOOKUP, lambda x: x.reference),
        Verb("manifest_delete", r.DeleteManifest, registries.delete, Lane.LOOKUP, lambda x: x.reference),
        Verb("manifest_inspect", r.GetManifest, registries.manifest, Lane.LOOKUP, lambda x: x.reference),
        Verb("index_create", r.CreateIndex, registries.create_index, Lane.LOOKUP, lambda x: x.name),
        Verb("indexes", r.ListIndexes, registries.indexes, Lane.READ),
        Verb("index_rm", r.RemoveIndex, registries.remove_index, Lane.KERNEL, lambda x: x.name),
        Verb("index_push", r.PushIndex, registries.push_index, Lane.WAIT, lambda x: x.destination or x.name),
        Verb("blob", r.GetBlob, registries.blob, Lane.WAIT, lambda x: x.reference),
        Verb("blob_put", r.PutBlob, registries.put_blob, Lane.WAIT, lambda x: x.reference),
        Verb("manifest_put", r.PutManifest, registries.put_manifest, Lane.LOOKUP, lambda x: x.reference),
        Verb("manifest_copy", r.CopyManifest, registries.copy, Lane.WAIT, lambda x: x.destination),
        # networks
        Verb("network_create", c.CreateNetwork, networks.create, Lane.KERNEL, network, lambda x: f"network/{x.name}"),
        Verb("network_rm", c.RemoveNetwork, networks.remove, Lane.KERNEL, network, lambda x: f"network/{x.network}"),
        Verb("networks", c.ListNetworks, networks.list, Lane.READ),
        Verb("network_inspect", c.InspectNetwork, networks.inspect, Lane.READ),
        # the daemon
        Verb("info", c.GetInfo, system.info, Lane.KERNEL),
        Verb("jobs", c.ListJobs, system.jobs, Lane.READ),
        Verb("job_cancel", c.CancelJob, system.cancel, Lane.READ),
    ]
