"""Words of a Dockerfile: splitting, quotes, escapes and every form of variable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.builder.words import Expander, WordError, split_words

VARIABLES = {"a": "apple", "empty": "", "path": "/usr/lib/x.tar.gz", "n": "3"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$a", "apple"),
        ("${a}s", "apples"),
        ("$a$n", "apple3"),
        ("$missing", ""),
        ("\\$a", "$a"),
        ("'$a'", "$a"),
        ('"$a b"', "apple b"),
        ('"\\$a"', "$a"),
        ('"\\n"', "\\n"),
        ("\\a", "a"),
        ("100$", "100$"),
        ("${missing:-x}", "x"),
        ("${empty:-x}", "x"),
        ("${empty-x}", ""),
        ("${missing-x}", "x"),
        ("${a:-x}", "apple"),
        ("${missing:-${a}}", "apple"),
        ("${missing:-${also:-deep}}", "deep"),
        ("${missing:-a}b}", "ab}"),
        ("${a:+x}", "x"),
        ("${empty:+x}", ""),
        ("${empty+x}", "x"),
        ("${missing+x}", ""),
        ("${a:?no}", "apple"),
        ("${path#*/}", "usr/lib/x.tar.gz"),
        ("${path##*/}", "x.tar.gz"),
        ("${path%.*}", "/usr/lib/x.tar"),
        ("${path%%.*}", "/usr/lib/x"),
        ("${path#nothing}", "/usr/lib/x.tar.gz"),
        ("${path/lib/bin}", "/usr/bin/x.tar.gz"),
        ("${a//p/b}", "abble"),
        ("${a/p/b}", "abple"),
        ("${a//p}", "ale"),
        ("${a/?/$n}", "3pple"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert Expander(VARIABLES).word(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("${a", "} is missing"),
        ("${}", "no name"),
        ("${a^}", "unknown operator '^'"),
        ("'open", "' is not closed"),
        ('"open', '" is not closed'),
        ("${missing:?give it}", "missing: give it"),
        ("${empty:?}", "empty: not set"),
    ],
)
def test_what_cannot_be_expanded(text: str, told: str) -> None:
    with pytest.raises(WordError, match=told.replace("$", r"\$").replace("^", r"\^").replace("}", r"\}")):
        Expander(VARIABLES).word(text)


def test_another_escape_character() -> None:
    assert Expander(VARIABLES, "`").word(r"C:\dir\$n`$n") == "C:\\dir\\3$n"


def test_names_that_were_looked_at_are_known() -> None:
    expander = Expander(VARIABLES)
    expander.words("$a ${missing} ${other:-x}")
    assert (expander.used, expander.unset) == ({"a", "missing", "other"}, {"missing"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b  c", ["a", "b", "c"]),
        ("'a b' c", ["'a b'", "c"]),
        ("a\\ b c", ["a\\ b", "c"]),
        ("x=${y:-a b} c", ["x=${y:-a b}", "c"]),
        ("", []),
    ],
)
def test_splitting(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_a_document_keeps_its_quotes() -> None:
    assert Expander(VARIABLES).document("say \"$a\" 'and $n' \\$a \\n\n") == "say \"apple\" 'and 3' $a \\n\n"


@given(st.text(alphabet="abc ", max_size=20))
def test_plain_text_is_its_words(text: str) -> None:
    assert Expander({}).words(text) == text.split()


@given(st.text(max_size=40))
def test_single_quotes_keep_everything(text: str) -> None:
    quoted = text.replace("'", "")
    assert Expander(VARIABLES).word(f"'{quoted}'") == quoted


@given(st.text(alphabet="a$\\{}'\":-/#% ", max_size=30))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    try:
        Expander(VARIABLES).words(text)
    except WordError as error:
        assert str(error)
