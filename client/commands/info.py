"""`moorage info`."""

from __future__ import annotations

import click

from moorage.client import format
from moorage.client.console import Settings, format_option, pass_settings, say, say_json, tell
from moorage.client.jsonout import to_dict


@click.command()
@format_option
@pass_settings
def command(settings: Settings, output: str) -> None:
    """Show how the daemon is set up and what it holds."""
    with settings.client() as client:
        info = client.system.info()
    if output == "json":
        say_json(to_dict(info))
        return
    storage = info.graph_driver_status
    facts = {
        "Version": info.version,
        "Instance": info.instance,
        "Root": info.root_dir,
        "State": info.state_dir,
        "Listening on": ", ".join(info.listen),
        "Pid": str(info.pid),
        "Started": info.started_at.ToDatetime().astimezone().isoformat(" ", "seconds"),
        "Graph driver": f"{info.graph_driver} on {storage.backing_file_system}",
        "  options": ", ".join(storage.options) or "none",
        "  size quotas": storage.quota or f"none: {storage.quota_obstacle}",
        "Exec driver": info.exec_driver,
        "OCI runtimes": ", ".join(f"{each.name} ({each.path}, {each.version})" for each in info.runtimes) or "none",
        "Cgroups": f"version {info.cgroup_version}, {info.cgroup_parent}",
        "Kernel": info.kernel_version,
        "CPUs": str(info.cpus),
        "Memory": format.binary_size(info.memory_bytes),
        "Images": str(info.images),
        "Containers": f"{info.containers}, {info.containers_running} running",
    }
    for name, value in facts.items():
        say(f"{name + ':':14} {format.printable(value)}")
    for warning in info.warnings:
        tell(f"warning: {format.printable(warning)}")
