"""A layer of 5 GB costs the daemon and its children no more memory than one of 500 MB: pulled, pushed, and packed again."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.streamregistry import FILE, Layer, StreamRegistry

pytestmark = [pytest.mark.kernel, pytest.mark.soak, pytest.mark.timeout(1800)]

SMALL, LARGE = 500 << 20, 5 << 30
ROOM = 4 * LARGE
"""Bytes on the disk: the layer, the copy of it that is packed, and what others write meanwhile."""
SLACK = 24 << 20
COMMAND_SECONDS = 600


@contextmanager
def peaks(pid: int) -> Iterator[Counter[str]]:
    """The most memory that the daemon, and any one process below it, has inside the block, in bytes, by the process's name."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the daemon's peak counts from now on
    found: Counter[str] = Counter()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for each in (pid, *_below(pid)):
                name, peak = _peak(each)
                found["daemon" if each == pid else name] = max(found["daemon" if each == pid else name], peak)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def _below(pid: int) -> Iterator[int]:
    try:
        lists = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in (int(word) for text in lists for word in text.split()):
        yield child
        yield from _below(child)


def _peak(pid: int) -> tuple[str, int]:
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return "gone", 0
    return status["Name"].strip(), int(status.get("VmHWM", "0 kB").split()[0]) << 10


def life(daemon: Daemon, size: int) -> Counter[str]:
    """Pull an image of one layer of `size` bytes, push it, push it once more with no blob left of it, remove it; answers the peaks."""
    with StreamRegistry(Layer(size)) as registry, peaks(daemon.pid) as found:
        name = f"{registry.host}/big:1"
        daemon.cli("pull", "-q", name, timeout=COMMAND_SECONDS)
        (layer,) = (daemon.root / "overlay" / "layers").iterdir()
        assert next(layer.rglob(FILE)).stat().st_size == size
        daemon.cli("push", "-q", name, f"{registry.host}/elsewhere/one:1", timeout=COMMAND_SECONDS)
        assert {registry.layer.digest, registry.config.digest} <= registry.taken
        registry.serves_layer = False
        registry.taken.clear()
        again = daemon.cli("push", "-q", name, f"{registry.host}/elsewhere/two:1", timeout=COMMAND_SECONDS)
        assert "packed again" in again.stderr
        # The config went beside the layer, before it was known that there is none; then another layer, config and manifest.
        assert len(registry.taken) == 4 and registry.layer.digest not in registry.taken
        daemon.cli("rmi", name)
    return found


def test_memory_is_flat_in_the_size_of_a_layer(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < ROOM:
        pytest.skip(f"needs {ROOM >> 30} GB on the disk")
    daemon = Daemon(tmp_path, settings='graph_driver = "overlay"')
    daemon.start()
    try:
        small, large = life(daemon, SMALL), life(daemon, LARGE)
    finally:
        daemon.close()
        shutil.rmtree(daemon.root)
    grown = {name: (small[name] >> 20, peak >> 20) for name, peak in large.items() if peak > small[name] + SLACK}
    assert not grown, f"MB with 500 MB, and with 5 GB: {grown}"
