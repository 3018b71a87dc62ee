"""What is made once of a record: kept for the record's life, and no longer."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace

from moorage.server.api.derived import Derived


@dataclass(frozen=True)
class Record:
    name: str
    labels: dict[str, str] = field(default_factory=dict)


def test_a_record_is_looked_at_once_and_a_changed_one_again() -> None:
    seen: list[str] = []

    def make(record: Record) -> str:
        seen.append(record.name)
        return record.name.upper()

    derived = Derived(make)
    record = Record("a")
    assert [derived(record), derived(record)] == ["A", "A"]
    assert derived(replace(record, name="b")) == "B"
    assert seen == ["a", "b"]


def test_equal_records_are_two() -> None:
    derived: Derived[Record, object] = Derived(lambda record: object())
    first, second = Record("a"), Record("a")
    assert derived(first) is not derived(second)


def test_nothing_is_kept_of_a_record_that_is_gone() -> None:
    class Made:
        """Something that can be referred to weakly."""

    derived: Derived[Record, Made] = Derived(lambda record: Made())
    records = [Record("a"), Record("b")]
    made = [weakref.ref(derived(record)) for record in records]
    assert all(each() for each in made)
    del records[0]
    assert [each() is None for each in made] == [True, False]
