"""Patterns of --exclude."""

from __future__ import annotations

import re

import pytest

from moorage.server.builder.patterns import expression


@pytest.mark.parametrize(
    ("pattern", "named", "not_named"),
    [
        ("a", ["a", "a/b"], ["ab", "b/a"]),
        ("*.txt", ["x.txt", ".txt", "d.txt/below"], ["d/x.txt", "x.txt2"]),
        ("**/*.txt", ["x.txt", "d/x.txt", "d/e/x.txt"], ["d/x.md"]),
        ("d/**", ["d/", "d/x", "d/e/f"], ["d", "e/d/x"]),
        ("d/**/f", ["d/f", "d/e/f", "d/e/e/f/g"], ["d/ef", "f"]),
        ("?", ["a"], ["ab", "/"]),
        ("[a-c]*", ["apple", "c"], ["d", "[a-c]x"]),
        ("[^a]b", ["cb", "^b"], ["ab", "/b"]),
        (r"\*", ["*"], ["x", r"\*"]),
        (r"\\", ["\\"], [""]),
        ("a.b", ["a.b"], ["axb"]),
        ("[", ["["], ["a"]),
    ],
)
def test_what_a_pattern_names(pattern: str, named: list[str], not_named: list[str]) -> None:
    compiled = re.compile(expression(pattern))
    assert [name for name in named if not compiled.fullmatch(name)] == []
    assert [name for name in not_named if compiled.fullmatch(name)] == []
