"""The parser: directives, continued lines, here-documents, flags, every instruction, and errors with their place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.builder import instructions as ins
from moorage.server.builder.parse import parse
from moorage.server.errors import InvalidArgument, MoorageError


def only(text: str) -> Any:
    """The one instruction after FROM."""
    (found,) = parse(f"FROM scratch\n{text}\n".encode()).instructions[1:]
    return found


def told(text: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        parse(text.encode())
    return caught.value.message


def test_comments_blank_lines_and_continued_lines() -> None:
    file = parse(b"# a comment\n\nFROM scratch\nRUN a \\\n  # inside\n\n  b \\ \n  c\n  # end\nCMD x\n")
    assert [(type(each).__name__, each.place.line) for each in file.instructions] == [
        ("From", 3),
        ("Run", 4),
        ("Cmd", 10),
    ]
    run = file.instructions[1]
    assert isinstance(run, ins.Run)
    assert run.command.words[0].split() == ["a", "b", "c"]


def test_the_escape_directive() -> None:
    file = parse(b"# escape=`\nFROM scratch\nRUN dir `\n C:\\\n")
    run = file.instructions[1]
    assert isinstance(run, ins.Run)
    assert (file.escape, run.command.words[0].split()) == ("`", ["dir", "C:\\"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# escape=`\n# escape=`\nFROM a", "Dockerfile:2: directive escape is given twice"),
        ("# escape=x\nFROM a", "Dockerfile:1: escape character 'x' is neither \\ nor `"),
        ("FROM a\nRUNN x", 'Dockerfile:2: unknown instruction RUNN (did you mean "RUN"?)'),
        ("FROM a\n\nCOPY --chwon=1 a b", 'Dockerfile:3: COPY --chwon: unknown flag (did you mean "chown"?)'),
        ("FROM a b c d", "Dockerfile:1: FROM takes `image` or `image AS name`"),
        ("FROM a AS 1x", "Dockerfile:1: FROM … AS 1x: not a stage name"),
        ("FROM a\nCOPY x", "Dockerfile:2: COPY needs at least a source and a target"),
        ("FROM a\nCOPY --from=a --from=b x y", "Dockerfile:2: COPY --from is given twice"),
        ("FROM a\nCOPY --link=maybe x y", "Dockerfile:2: COPY --link=maybe: neither true nor false"),
        ("FROM a\nCOPY --from=$x a b", "Dockerfile:2: COPY --from=$x: no variables here"),
        ("FROM a\nADD --parents a b", "Dockerfile:2: ADD --parents: unknown flag"),
        ("FROM a\nCOPY --parents=x a b", "Dockerfile:2: COPY --parents=x: neither true nor false"),
        (
            "FROM a\nADD --keep-git-dir=x a b",
            "Dockerfile:2: ADD --keep-git-dir=x: neither true nor false",
        ),
        ("FROM a\nRUN", "Dockerfile:2: RUN needs a command"),
        ("FROM a\nRUN --network=moon x", "Dockerfile:2: RUN --network=moon: unknown network"),
        (
            "FROM a\nRUN --security=insecure x",
            "Dockerfile:2: RUN --security=insecure is not offered: RUN is always confined",
        ),
        ("FROM a\nRUN --device=x y", "Dockerfile:2: RUN --device is not offered: RUN gets no devices"),
        ("FROM a\nRUN <<EOF\nx", "Dockerfile:2: RUN <<EOF: the here-document has no end"),
        ("FROM a\nENV x", "Dockerfile:2: ENV x needs a value"),
        ("FROM a\nENV x=1 y", "Dockerfile:2: ENV: 'y' is not name=value"),
        ("FROM a\nLABEL x='1", "Dockerfile:2: LABEL: ' is not closed in \"x='1\""),
        ("FROM a\nSHELL /bin/sh", "Dockerfile:2: SHELL takes a JSON list of words"),
        ("FROM a\nHEALTHCHECK curl x", "Dockerfile:2: HEALTHCHECK takes CMD and a command, or NONE"),
        ("FROM a\nHEALTHCHECK --interval=5 CMD x", "Dockerfile:2: HEALTHCHECK --interval=5: not a duration"),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", "Dockerfile:2: HEALTHCHECK --retries=-1: not a number"),
        ("FROM a\nONBUILD FROM b", "Dockerfile:2: ONBUILD FROM is not allowed"),
        ("FROM a\nONBUILD COPIE a b", 'Dockerfile:2: unknown instruction COPIE (did you mean "COPY"?)'),
        ("FROM a\nWORKDIR", "Dockerfile:2: WORKDIR needs an argument"),
        ("\n# nothing\n", "Dockerfile has no instruction in it"),
        ("FROM a\nRUN \0", "Dockerfile:2: there is a NUL in it"),
    ],
)
def test_errors_name_the_place(text: str, message: str) -> None:
    assert told(text) == message


def test_text_that_is_not_utf_8() -> None:
    with pytest.raises(InvalidArgument, match="Dockerfile:2: not UTF-8: byte 0xff"):
        parse(b"FROM a\nRUN \xff\n")


def test_shell_and_exec_form() -> None:
    assert only('RUN ["a", "b c"]').command == ins.Command(("a", "b c"), shell=False)
    assert only("RUN a 'b c'").command == ins.Command(("a 'b c'",), shell=True)
    assert only("RUN [a, b]").command == ins.Command(("[a, b]",), shell=True)
    assert only("CMD []").command == ins.Command((), shell=False)


def test_flags_of_run() -> None:
    run = only("RUN --mount=type=cache,target=/x --network=none --mount=type=tmpfs,target=/y ls --all")
    assert run.mounts == ("type=cache,target=/x", "type=tmpfs,target=/y")
    assert (run.network, run.command.words) == ("none", ("ls --all",))


def test_a_flag_of_the_command_after_double_dash() -> None:
    assert only("RUN --network=none -- --version").command.words == ("--version",)


def test_here_documents() -> None:
    run = only("RUN <<EOF\nline 1\n  EOF\nEOF")
    assert [(each.name, each.text, each.expand) for each in run.heredocs] == [("EOF", "line 1\n  EOF\n", True)]
    copy = only("COPY <<A <<-'B' /dir/\n$x\nA\n\t\tb\n\tB")
    assert [(each.name, each.text, each.expand) for each in copy.heredocs] == [("A", "$x\n", True), ("B", "b\n", False)]
    assert copy.sources == ("<<A", "<<-'B'")


def test_what_only_looks_like_a_here_document() -> None:
    assert only("RUN echo $((1<<2)) <<<word").heredocs == ()
    assert only("RUN echo 'a <<EOF b'").heredocs == ()


def test_env_in_both_forms() -> None:
    assert only("ENV a=1 b='2 3' c=\"4\"").pairs == (("a", "1"), ("b", "'2 3'"), ("c", '"4"'))
    assert only("ENV name many words here").pairs == (("name", "many words here"),)


def test_arg_with_and_without_default() -> None:
    assert only("ARG a b=2 c=").pairs == (("a", None), ("b", "2"), ("c", ""))


def test_copy_with_all_flags() -> None:
    copy = only("COPY --from=build --chown=1:2 --chmod=755 --link a b /c/")
    assert (copy.origin, copy.chown, copy.chmod, copy.link) == ("build", "1:2", "755", True)
    assert (copy.sources, copy.target, copy.add) == (("a", "b"), "/c/", False)
    assert only('COPY ["a b", "c"]').sources == ("a b",)


def test_healthcheck() -> None:
    found = only("HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD curl -f x")
    assert (found.interval, found.timeout, found.retries) == (90 * 10**9, 500 * 10**6, 3)
    assert found.command == ins.Command(("curl -f x",), shell=True)
    assert only("HEALTHCHECK NONE").command is None


def test_the_rest() -> None:
    assert only('VOLUME ["/a", "/b"]').paths == ("/a", "/b")
    assert only("VOLUME /a /b").paths == ("/a", "/b")
    assert only("EXPOSE 80 53/udp").ports == ("80", "53/udp")
    assert only('SHELL ["/bin/ash", "-c"]').words == ("/bin/ash", "-c")
    assert only("STOPSIGNAL SIGQUIT").signal == "SIGQUIT"
    assert only("MAINTAINER me, it's").pairs[0][0] == "maintainer"
    assert only("ONBUILD RUN x").trigger == "RUN x"
    assert only("user a:b").user == "a:b"


@given(st.text(alphabet="FROMRUNCPY a\\\n#<=\"'[]-$`{}", max_size=80))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse(f"FROM a\n{text}".encode())
    except MoorageError as error:
        assert error.message.startswith("Dockerfile")
