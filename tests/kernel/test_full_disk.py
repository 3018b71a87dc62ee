"""A full disk: told as such with the path, nothing half done, and room again after a removal.

The disk is a small tmpfs in a mount namespace of the child that runs the case.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import ResourceExhausted
from moorage.server.graph import drivers
from moorage.server.graph.confined import ConfinedRunner
from moorage.server.graph.content import ContentStore
from moorage.server.graph.graphdb import GraphDB
from moorage.server.libcontainer import syscalls
from moorage.server.model import Platform
from tests.archives import Archive, diff_id
from tests.spawning import running_spawner

pytestmark = pytest.mark.kernel

MIB = 1 << 20


def layers(disk: Path) -> None:
    with running_spawner() as spawner:
        for name in ("overlay", "vfs"):
            driver = drivers.choose(name, disk, ConfinedRunner(spawner.run_task))
            small, large = (
                Archive().add("small", data=bytes(MIB)).bytes,
                Archive().add("large", data=bytes(9 * MIB)).bytes,
            )
            driver.apply(diff_id(small), "", io.BytesIO(small), CancelToken())
            with pytest.raises(
                ResourceExhausted, match=r'cannot unpack entry "large" at offset [0-9]+: no space left on device'
            ):
                driver.apply(diff_id(large), "", io.BytesIO(large), CancelToken())
            assert driver.layers() == {diff_id(small)}
            driver.remove_layer(diff_id(small))
            driver.close()
            again = Archive().add("again", data=bytes(6 * MIB)).bytes
            driver.apply(diff_id(again), "", io.BytesIO(again), CancelToken())
            driver.remove_layer(diff_id(again))
            driver.close()


def content(disk: Path) -> None:
    store = ContentStore(disk / "content")
    data = bytes(9 * MIB)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with store.writer(digest, len(data)) as writer:
        with pytest.raises(
            ResourceExhausted, match=f"cannot write {disk}/content/ingest/[0-9a-f]+: no space left on device"
        ) as caught:
            writer.write(data)
        assert caught.value.metadata["path"].startswith(str(disk))
    assert not store.exists(digest)
    (ingest,) = store.ingests()
    assert 0 < ingest.size < len(data)
    with store.writer(digest, len(data)) as writer:
        assert writer.offset == ingest.size
        writer.abort()
    assert store.ingests() == []


def database(disk: Path) -> None:
    with closing(GraphDB(disk / "graph.db")) as db:
        with db.transaction() as tx:
            tx.put("platform", "kept", Platform())
        filler = disk / "filler"
        filler.write_bytes(bytes(7 * MIB))
        with (
            pytest.raises(ResourceExhausted, match=f"cannot write graph database {disk}/graph.db"),
            db.transaction() as tx,
        ):
            tx.put("platform", "lost", Platform(os="x" * 4 * MIB))
        assert db.find("platform", "") == ["kept"]
        filler.unlink()
        with db.transaction() as tx:
            tx.put("platform", "later", Platform())
    with closing(GraphDB(disk / "graph.db")) as db:
        assert db.find("platform", "") == ["kept", "later"]


CASES: list[Callable[[Path], None]] = [layers, content, database]


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_a_full_disk(case: Callable[[Path], None], tmp_path: Path) -> None:
    script = f"from tests.kernel.test_full_disk import small_disk, {case.__name__}; small_disk({case.__name__})"
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def small_disk(case: Callable[[Path], None]) -> None:
    """The child: run a case with a disk of 8 MiB."""
    disk = sys.argv[1]
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.set_propagation("/", syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", disk, "tmpfs", 0, "size=8m")
    case(Path(disk))
