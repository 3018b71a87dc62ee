"""Another kernel, for what this one is built without: Debian's User Mode Linux, a process, on the host's own files.

    run(["tests.umlproject", "xfs"], image)    # python -m tests.umlproject xfs in there, with the image as /dev/ubda; its output

What runs there sees the host's root read-only (hostfs); what it writes goes to file systems that it mounts.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

LINUX = "/usr/bin/linux.uml"
MODULES = Path("/usr/lib/uml/modules")
ROOT = Path(__file__).parents[1]
DONE = "moorage-done"


def run(program: Sequence[str], image: Path, *modules: str, timeout: float = 240) -> str:
    """What `python -m program` prints, as root, with kernel `modules` (paths below kernel/) loaded. Raises AssertionError when it fails."""
    with tempfile.TemporaryDirectory(prefix="moorage-uml-") as directory:
        script = Path(directory) / "init"
        loads = [f"/bin/busybox insmod {MODULES}/$(uname -r)/kernel/{name}.ko" for name in modules]
        line = shlex.join([sys.executable, "-m", *program])
        lines = ["#!/bin/sh", "mount -t proc proc /proc", "mount -t tmpfs tmpfs /run", "mount -t sysfs sysfs /sys"]
        lines += ["mount -t cgroup2 cgroup2 /sys/fs/cgroup", *loads]
        lines += [f"cd {shlex.quote(str(ROOT))}", f"{line} && echo {DONE}", "exec /bin/busybox poweroff -f"]
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)
        command = [LINUX, "rootfstype=hostfs", "rootflags=/", "ro", f"init={script}", "mem=512M", f"ubd0={image}"]
        command += [
            "con0=null,fd:1",
            "con=null",
            "ssl=null",
            "quiet",
            f"umid=moorage{os.getpid()}",
            f"uml_dir={directory}",
        ]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    output = done.stdout.decode(errors="replace")
    assert DONE in output, output
    return output
