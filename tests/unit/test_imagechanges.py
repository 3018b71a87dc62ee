"""Lines of a Dockerfile that change an image's config, and the history that a config tells."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moorage.server.engine import imagechanges
from moorage.server.errors import InvalidArgument
from moorage.server.graph import history
from moorage.server.model import Layer

LAYERS = (Layer("sha256:a", "sha256:a", "", 7), Layer("sha256:c", "sha256:b", "sha256:a", 9))


@pytest.mark.parametrize(
    ("line", "member", "value"),
    [
        ('CMD ["a", "b c"]', "Cmd", ["a", "b c"]),
        ("cmd echo hello", "Cmd", ["/bin/sh", "-c", "echo hello"]),
        ('ENTRYPOINT ["x"]', "Entrypoint", ["x"]),
        ("ENV A=1 B='two words'", "Env", ["PATH=/bin", "A=1", "B=two words"]),
        ("ENV PATH /usr/bin:/bin", "Env", ["PATH=/usr/bin:/bin"]),
        ("EXPOSE 80 53/udp", "ExposedPorts", {"80/tcp": {}, "53/udp": {}}),
        ('LABEL a.b="c d" e=f', "Labels", {"old": "1", "a.b": "c d", "e": "f"}),
        ("ONBUILD RUN make", "OnBuild", ["RUN make"]),
        ("STOPSIGNAL SIGQUIT", "StopSignal", "SIGQUIT"),
        ("USER 1000:1000", "User", "1000:1000"),
        ("VOLUME /data /more", "Volumes", {"/data": {}, "/more": {}}),
        ('VOLUME ["/with space"]', "Volumes", {"/with space": {}}),
        ("WORKDIR /srv", "WorkingDir", "/srv"),
    ],
)
def test_instructions(line: str, member: str, value: object) -> None:
    config: dict[str, Any] = {"Env": ["PATH=/bin"], "Labels": {"old": "1"}}
    imagechanges.apply(config, [line])
    assert config[member] == value


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("RUN make", "no such instruction"),
        ("", "no such instruction"),
        ("CMD", "CMD needs a value"),
        ("CMD [1]", "no JSON list of strings"),
        ("ENV A", "A has no value"),
        ("ENV A=1 B", "'B' is not of the form"),
        ('LABEL "a', "No closing quotation"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(line: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"change 2 .*{why}"):
        imagechanges.apply({}, ["USER x", line])


def test_a_history_names_each_steps_layer() -> None:
    entries = [
        {"created": "2024-01-02T03:04:05Z", "created_by": "ADD", "author": "me"},
        {"created_by": "CMD", "empty_layer": True, "comment": "nothing"},
        {"created": "no time", "created_by": "RUN"},
    ]
    steps = history.read(json.dumps({"history": entries}).encode(), LAYERS)
    assert [(step.created_by, step.layer) for step in steps] == [("ADD", LAYERS[0]), ("CMD", None), ("RUN", LAYERS[1])]
    assert [step.created_ns for step in steps] == [1_704_164_645 * 10**9, 0, 0]
    assert (steps[0].author, steps[1].comment) == ("me", "nothing")


@pytest.mark.parametrize("config", [{}, {"history": [{}]}, {"history": "odd"}])
def test_a_history_that_does_not_fit_is_the_layers(config: dict[str, object]) -> None:
    steps = history.read(json.dumps(config).encode(), LAYERS)
    assert [step.layer for step in steps] == list(LAYERS)
