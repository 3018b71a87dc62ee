"""What --check finds in a Dockerfile."""

from __future__ import annotations

import pytest

from moorage.server.builder.lint import lint
from moorage.server.builder.parse import parse


def found(text: str) -> list[tuple[str, int]]:
    return [(each.rule, each.place.line) for each in lint(parse(text.encode()))]


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("MAINTAINER x", [("MaintainerDeprecated", 2)]),
        ("ENV a b", [("LegacyKeyValueFormat", 2)]),
        ("LABEL a b", [("LegacyKeyValueFormat", 2)]),
        ("ENV a=b c=d\nLABEL e=f", []),
        ('CMD a\nCMD ["b"]', [("JSONArgsRecommended", 2), ("MultipleInstructionsDisallowed", 2)]),
        ('CMD ["a"]\nENTRYPOINT ["b"]\nFROM x\nCMD ["c"]', []),
        ("HEALTHCHECK CMD a\nHEALTHCHECK NONE", [("MultipleInstructionsDisallowed", 2)]),
        ("ENTRYPOINT exec a", [("JSONArgsRecommended", 2)]),
        ('SHELL ["/bin/bash", "-c"]\nENTRYPOINT exec a', []),
        ("ENV API_KEY=1 KEYBOARD=2 PUBLIC_KEY=3 TOKEN_FILE=/x", [("SecretsUsedInArgOrEnv", 2)]),
        ("ARG GITHUB_TOKEN\nARG AUTHOR", [("SecretsUsedInArgOrEnv", 2)]),
        ("WORKDIR app\nWORKDIR sub", [("WorkdirRelativePath", 2)]),
        ("WORKDIR /app\nWORKDIR sub\nWORKDIR $HOME/x", []),
        ("FROM y AS scratch", [("ReservedStageName", 2)]),
    ],
)
def test_what_is_found(text: str, rules: list[tuple[str, int]]) -> None:
    assert found(f"FROM a\n{text}\n") == rules


def test_a_stage_goes_on_in_the_directory_of_another() -> None:
    assert found("FROM a AS Base\nWORKDIR /x\nFROM base\nWORKDIR y\nFROM b\nWORKDIR z\n") == [
        ("WorkdirRelativePath", 6)
    ]


@pytest.mark.parametrize(
    ("directive", "rules"),
    [
        ("skip=JSONArgsRecommended", ["MaintainerDeprecated"]),
        ("skip=jsonargsrecommended, MaintainerDeprecated;error=true", []),
        ("error=true;skip=all", []),
        ("error=true", ["MaintainerDeprecated", "JSONArgsRecommended"]),
    ],
)
def test_rules_can_be_left_out(directive: str, rules: list[str]) -> None:
    assert [rule for rule, _ in found(f"# check={directive}\nFROM a\nMAINTAINER x\nCMD y\n")] == rules


def test_how_it_is_told() -> None:
    (finding,) = lint(parse(b"FROM a\nENV a b\n", "sub.Dockerfile"))
    assert str(finding) == "sub.Dockerfile:2: ENV: write name=value (LegacyKeyValueFormat)"
