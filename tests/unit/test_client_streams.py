"""The requests of a two-way call, and the keys that leave it."""

from __future__ import annotations

import os
import threading

from hypothesis import given
from hypothesis import strategies as st

from moorage.client.streams import Outbox
from moorage.client.terminal import DetachKeys, write_all


def test_messages_come_in_order_and_urgent_ones_first() -> None:
    outbox: Outbox[int] = Outbox()
    for number in (1, 2, 3):
        assert outbox.put(number)
    assert outbox.put(9, urgent=True)
    outbox.end()
    assert list(outbox) == [9, 1, 2, 3]


def test_nothing_is_taken_after_the_end() -> None:
    outbox: Outbox[int] = Outbox()
    assert outbox.put(1)
    outbox.end(dead=True)
    assert not outbox.put(2)
    assert not outbox.put(3, urgent=True)
    assert list(outbox) == []


def test_a_full_outbox_holds_the_writer_but_no_signal() -> None:
    outbox: Outbox[int] = Outbox(limit=2)
    taken: list[bool] = []
    writer = threading.Thread(target=lambda: taken.extend(outbox.put(number) for number in range(5)))
    writer.start()
    messages = iter(outbox)
    first = [next(messages)]
    assert outbox.put(99, urgent=True)
    rest = [next(messages) for _ in range(5)]
    writer.join()
    assert taken == [True] * 5
    assert sorted(first + rest) == [0, 1, 2, 3, 4, 99]
    assert [number for number in first + rest if number != 99] == [0, 1, 2, 3, 4]


def test_a_call_that_ends_wakes_the_writer() -> None:
    outbox: Outbox[int] = Outbox(limit=1)
    taken: list[bool] = []
    writer = threading.Thread(target=lambda: taken.extend(outbox.put(number) for number in range(3)))
    writer.start()
    next(iter(outbox))
    outbox.end(dead=True)
    writer.join()
    assert taken[-1] is False


KEYS = st.binary(min_size=1, max_size=4).map(lambda keys: bytes(byte % 3 for byte in keys))
TYPED = st.lists(st.binary(max_size=6).map(lambda typed: bytes(byte % 4 for byte in typed)), max_size=8)


@given(KEYS, TYPED)
def test_detach_keys_are_found_however_they_are_cut(keys: bytes, typed: list[bytes]) -> None:
    watcher, passed = DetachKeys(keys), b""
    everything = b"".join(typed)
    for piece in typed:
        some, detached = watcher.feed(piece)
        passed += some
        if detached:
            assert passed == everything[: everything.index(keys)]
            return
    assert keys not in everything
    assert passed + watcher.rest() == everything
    assert everything.startswith(passed)


@given(TYPED)
def test_without_keys_nothing_is_held_back(typed: list[bytes]) -> None:
    watcher = DetachKeys(b"")
    assert [watcher.feed(piece) for piece in typed] == [(piece, False) for piece in typed]


def test_every_byte_is_written_to_a_pipe_that_does_not_block() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    data = os.urandom(1 << 20)
    received = bytearray()

    def read() -> None:
        os.set_blocking(reader, True)
        while chunk := os.read(reader, 4096):
            received.extend(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    write_all(writer, data)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert bytes(received) == data
