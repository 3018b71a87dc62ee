"""Answers that depend on a record alone, made once of each record instead of once a call."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

R = TypeVar("R")
T = TypeVar("T")


class Derived(Generic[R, T]):
    """Answers `make(record)`, made when first asked for.

    Records of the GraphDB are frozen, and the same object until they change: what is made of one is kept for as long as it lives, and a
    changed one is another object.
    """

    def __init__(self, make: Callable[[R], T]) -> None:
        self._make = make
        self._kept: dict[int, tuple[weakref.ref[R], T]] = {}

    def __call__(self, record: R) -> T:
        """What was made of the record."""
        number = id(record)
        kept = self._kept.get(number)
        if kept is None:
            made = self._make(record)
            self._kept[number] = (weakref.ref(record, lambda _: self._kept.pop(number, None)), made)
            return made
        return kept[1]
