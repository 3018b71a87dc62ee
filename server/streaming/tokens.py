"""The single-use tokens of URLs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from moorage.server.errors import ResourceExhausted
from moorage.server.streaming.requests import Kind, Open

LIFETIME_SECONDS = 60.0
MAX_PENDING = 1000


class Tokens:
    """What waits to be asked for. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pending: dict[str, tuple[Kind, Open, float]] = {}

    def issue(self, kind: Kind, request: Open) -> str:
        """A new token: 256 random bits. Raises ResourceExhausted."""
        self._expire()
        if len(self._pending) >= MAX_PENDING:
            raise ResourceExhausted(
                f"{MAX_PENDING} streaming URLs wait to be used",
                hint=f"use the URLs, or let them expire ({LIFETIME_SECONDS:.0f} s)",
            )
        token = secrets.token_urlsafe(32)
        self._pending[token] = (kind, request, self._clock() + LIFETIME_SECONDS)
        return token

    def redeem(self, kind: str, token: str) -> Open | None:
        """What the token stands for, once; None if it is unknown, used, too old or of another kind."""
        self._expire()
        issued = self._pending.get(token)
        if issued is None or issued[0] != kind:
            return None
        del self._pending[token]
        return issued[1]

    def _expire(self) -> None:
        """All live equally long, so the oldest are first."""
        now = self._clock()
        while self._pending:
            token = next(iter(self._pending))
            if self._pending[token][2] > now:
                return
            del self._pending[token]
