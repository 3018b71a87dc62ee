"""The content store: verified before it has a name, resumed where it stopped, never a path from a bad digest."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.server.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from moorage.server.graph.content import ContentStore

DATA = b"some blob of bytes" * 1000
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def put(store: ContentStore, data: bytes, durable: bool = False) -> str:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with store.writer(digest, len(data), durable=durable) as writer:
        writer.write(data)
        writer.commit()
    return digest


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_committed_is_read_back(store: ContentStore, durable: bool) -> None:
    assert not store.exists(DIGEST)
    assert put(store, DATA, durable) == DIGEST
    assert store.exists(DIGEST)
    assert store.size(DIGEST) == len(DATA)
    with store.open(DIGEST) as file:
        assert file.read() == DATA
    assert store.digests() == {DIGEST}
    assert store.ingests() == []
    assert abs(store.modified_ns(DIGEST) - time.time_ns()) < 3600 * 10**9
    assert store.path(DIGEST).stat().st_mode & 0o777 == 0o400


def test_an_empty_blob(store: ContentStore) -> None:
    digest = put(store, b"")
    assert store.size(digest) == 0


def test_there_is_no_name_before_the_commit(store: ContentStore) -> None:
    with store.writer(DIGEST, len(DATA)) as writer:
        writer.write(DATA)
        assert not store.exists(DIGEST)
        assert [ingest.digest for ingest in store.ingests()] == [DIGEST]
    assert not store.exists(DIGEST)


@given(st.lists(st.integers(0, len(DATA)), max_size=5))
@settings(max_examples=30, deadline=None)
def test_an_interrupted_blob_is_resumed_where_it_stopped(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int]
) -> None:
    store = ContentStore(tmp_path_factory.mktemp("content"))
    for stop in [*sorted(stops), len(DATA)]:
        with store.writer(DIGEST, len(DATA)) as writer:
            writer.write(DATA[writer.offset : stop])
            assert writer.offset == stop
    with store.writer(DIGEST, len(DATA)) as writer:
        writer.commit()
    with store.open(DIGEST) as file:
        assert file.read() == DATA


def test_without_resume_it_begins_again(store: ContentStore) -> None:
    with store.writer(DIGEST, len(DATA)) as writer:
        writer.write(b"wrong")
    with store.writer(DIGEST, len(DATA)) as writer:
        assert writer.offset == 5
        writer.restart()
        writer.write(DATA[:7])
    with store.writer(DIGEST, len(DATA), resume=False) as writer:
        assert writer.offset == 0
        writer.write(DATA)
        writer.commit()
    assert store.exists(DIGEST)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DATA[:-1], f"got {len(DATA) - 1} of {len(DATA)} bytes"),
        (b"X" + DATA[1:], "got sha256:"),
        (b"", f"got 0 of {len(DATA)} bytes"),
    ],
    ids=["short", "flipped", "empty"],
)
def test_a_wrong_blob_is_refused_and_thrown_away(store: ContentStore, data: bytes, message: str) -> None:
    with pytest.raises(DataLoss, match=message), store.writer(DIGEST, len(DATA)) as writer:
        writer.write(data)
        writer.commit()
    assert not store.exists(DIGEST)
    assert store.ingests() == []
    put(store, DATA)
    assert store.exists(DIGEST)


def test_a_byte_too_many_is_refused_and_thrown_away(store: ContentStore) -> None:
    with pytest.raises(DataLoss, match=f"more than its {len(DATA)} bytes"), store.writer(DIGEST, len(DATA)) as writer:
        writer.write(DATA)
        writer.write(b"x")
    assert store.ingests() == []


def test_an_ingest_larger_than_expected_begins_again(store: ContentStore) -> None:
    with store.writer(DIGEST, len(DATA) * 2) as writer:
        writer.write(DATA + b"x")
    with store.writer(DIGEST, len(DATA)) as writer:
        assert writer.offset == 0


def test_one_writer_at_a_time(store: ContentStore) -> None:
    with store.writer(DIGEST, len(DATA)), pytest.raises(FailedPrecondition, match="is being written already"):
        store.writer(DIGEST, len(DATA))
    with store.writer(DIGEST, len(DATA)) as writer:
        writer.abort()
    assert store.ingests() == []


def test_a_commit_over_an_existing_blob_is_fine(store: ContentStore) -> None:
    put(store, DATA)
    put(store, DATA)
    assert store.digests() == {DIGEST}


def test_read_checks_the_limit_and_the_digest(store: ContentStore) -> None:
    put(store, DATA)
    assert store.read(DIGEST, len(DATA)) == DATA
    with pytest.raises(ResourceExhausted, match=f"larger than {len(DATA) - 1} bytes"):
        store.read(DIGEST, len(DATA) - 1)
    path = store.path(DIGEST)
    path.chmod(0o600)
    path.write_bytes(b"damage")
    with pytest.raises(DataLoss, match="is damaged"):
        store.read(DIGEST, len(DATA))


def test_delete(store: ContentStore) -> None:
    put(store, DATA)
    with store.open(DIGEST) as file:
        assert store.delete(DIGEST) == len(DATA)
        assert file.read() == DATA
    assert store.delete(DIGEST) == 0
    for action in (store.size, store.open):
        with pytest.raises(NotFound):
            action(DIGEST)
    assert store.modified_ns(DIGEST) == 0


def test_old_ingests_that_nobody_writes_are_dropped(store: ContentStore, tmp_path: Path) -> None:
    other = f"sha256:{'1' * 64}"
    with store.writer(DIGEST, len(DATA)) as writer:
        writer.write(b"abc")
    with store.writer(other, 10) as writer:
        writer.write(b"defg")
        for name in (tmp_path / "content" / "ingest").iterdir():
            os.utime(name, (1, 1))
        assert store.drop_ingests(older_than_ns=1) == 0
        assert store.drop_ingests(older_than_ns=2 * 10**9) == 3
        assert [ingest.digest for ingest in store.ingests()] == [other]


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256:",
        "sha256:../../../etc/passwd",
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "sha512:" + "a" * 128,
        DIGEST + "\n",
        DIGEST[7:],
    ],
)
def test_malformed_digests_never_become_paths(store: ContentStore, digest: str) -> None:
    for action in (store.path, store.exists, store.size, store.open, store.delete, lambda text: store.writer(text, 1)):
        with pytest.raises(InvalidArgument, match="malformed"):
            action(digest)


def test_nobody_else_gets_in(store: ContentStore, tmp_path: Path) -> None:
    for directory in (tmp_path / "content", tmp_path / "content" / "ingest", tmp_path / "content" / "blobs"):
        assert directory.stat().st_mode & 0o777 == 0o700
