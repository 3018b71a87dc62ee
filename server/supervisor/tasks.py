"""The table of tasks: functions the daemon has run in a process of its own, forked from the spawner.

A task gets its arguments (a JSON object) and descriptors (its to use; the process has no others but 0, 1 and 2 on /dev/null), and returns
a JSON object. It may confine itself (chroot, drop capabilities) as it likes: the process ends with it. It dies with the spawner, and
with the daemon. What it imports must be standard library and is loaded in the spawner, before any task runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from moorage.server.supervisor import buildstubs, buildtree, lookups, trees
from moorage.server.supervisor.compare import compare
from moorage.server.supervisor.pack import export, pack
from moorage.server.supervisor.unpack import unpack


def echo(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Answer the arguments, and how many descriptors came: shows that the way to a task and back works."""
    return {"args": args, "fds": len(fds)}


def sleep(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Do nothing for `seconds`: something to cancel."""
    time.sleep(args["seconds"])
    return {}


Task = Callable[[dict[str, Any], list[int]], dict[str, Any]]

TASKS: dict[str, Task] = {
    "echo": echo,
    "sleep": sleep,
    "unpack": unpack,
    "pack": pack,
    "export": export,
    "copy_tree": trees.copy_tree,
    "remove_tree": trees.remove_tree,
    "measure_trees": trees.measure_trees,
    "compare": compare,
    "inherit": trees.inherit,
    "check_directory": lookups.check_directory,
    "maps_owners": lookups.maps_owners,
    "build_missing": buildstubs.missing,
    "build_sweep": buildstubs.sweep,
    "build_trim": buildstubs.trim,
    "build_directory": buildtree.have_directory,
    "build_owner": buildtree.owner,
    "build_put": buildtree.put,
    "build_take": buildtree.take,
    "build_look": buildtree.look,
}
