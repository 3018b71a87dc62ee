"""supervisor/loop.py: what it watches."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from moorage.server.supervisor.loop import READ, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_it_knows_whether_there_is_more_than_one_knows_of(loop: Loop, pipe: tuple[int, int]) -> None:
    reader, _writer = pipe
    assert loop.watches_only([])
    loop.add(reader, READ, lambda _events: None)
    assert not loop.watches_only([])
    assert loop.watches_only([reader])
    loop.remove(reader)
    assert not loop.watches_only([reader])


def test_a_call_to_come_is_more(loop: Loop) -> None:
    timer = loop.call_later(60, loop.stop)
    assert not loop.watches_only([])
    timer.cancel()
    assert loop.watches_only([])


def test_a_call_is_not_to_come_while_it_is_made(loop: Loop) -> None:
    seen: list[bool] = []

    def look() -> None:
        seen.append(loop.watches_only([]))
        loop.stop()

    loop.call_later(0, look)
    loop.run()
    assert seen == [True]
