"""What is left to read of a supervisor that fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from moorage.server.supervisor import life
from moorage.server.supervisor.failures import describe


def lose_the_way(*_arguments: object) -> NoReturn:
    raise RuntimeError("lost its way")


def test_a_crash_is_written_down(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(RuntimeError):
            life._live(directory, lose_the_way)
    finally:
        os.close(directory)
    text = (tmp_path / "supervisor.log").read_text()
    assert text.startswith("Traceback (most recent call last):")
    assert text.endswith("RuntimeError: lost its way\n")
    assert "in lose_the_way" in text


def test_a_failure_that_nobody_foresaw_tells_its_place() -> None:
    try:
        lose_the_way()
    except RuntimeError as error:
        told = describe(error)
    assert told["kind"] == "Internal"
    assert (
        told["message"] == f"RuntimeError: lost its way (lose_the_way, line {lose_the_way.__code__.co_firstlineno + 1})"
    )
