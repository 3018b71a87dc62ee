"""Errors on their way to a caller: what is sent of a long one, and what happens when nobody is there any more."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.api.status import StatusInterceptor, shortened
from moorage.server.engine.metrics import Metrics
from moorage.server.errors import NotFound

LETTERS = st.characters(exclude_characters="…", codec="utf-8")


@given(st.text(LETTERS, max_size=300), st.integers(20, 200))
def test_a_text_is_cut_only_when_it_is_too_long(text: str, limit: int) -> None:
    def sent(part: str) -> int:
        return sum(1 if " " <= letter <= "~" and letter != "%" else 3 * len(letter.encode()) for letter in part)

    short = shortened(text, limit)
    if sent(text) <= limit:
        assert short == text
        return
    head, tail = short.split(" … ")
    assert text.startswith(head) and text.endswith(tail)
    assert sent(head) + sent(tail) <= limit


class Gone:
    """A ServicerContext whose caller has hung up."""

    async def abort(self, *_status: Any) -> None:
        raise aio.InternalError("Failed execute_batch")


async def test_a_caller_who_hangs_up_as_an_error_comes_is_no_failure() -> None:
    async def behaviour(_request: object, _context: object) -> None:
        raise NotFound("no such thing")

    call = StatusInterceptor(Metrics())._unary("/runtime.v1.RuntimeService/Version", behaviour)
    with pytest.raises(asyncio.CancelledError):
        await call(None, cast("Any", Gone()))
