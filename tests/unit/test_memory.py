"""libcontainer/memory.py: how the spawner's memory lies before it forks. In interpreters of their own, as there is no way back from it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc, json, os, re, sys
from moorage.server.libcontainer import memory
from moorage.server.supervisor import supervisor

if sys.argv[1] == "settled":
    memory.settle()
    assert not gc.isenabled() and gc.get_freeze_count()
else:
    gc.collect()
    gc.freeze()
    gc.disable()
if os.fork() == 0:
    objects = [json.loads(json.dumps({"a": [1.5, "b" * size], str(size): None})) for size in range(512)]
    sizes = open("/proc/self/smaps_rollup").read()
    print(re.search(r"Private_Dirty: +([0-9]+)", sizes)[1], flush=True)
    os._exit(0)
os.wait()
"""


def written(how: str) -> int:
    """KiB that a fork has for itself after some work."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=60)
    assert not done.stderr
    return int(done.stdout)


def test_a_fork_of_a_settled_process_writes_to_fewer_pages() -> None:
    assert written("settled") < written("frozen only")
