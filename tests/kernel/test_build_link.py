"""COPY --link: layers that are the same whatever is below, and so are kept when that changes."""

from __future__ import annotations

import pytest

from tests.aftermath import whole
from tests.building import Built, Project, daemon, project

__all__ = ["daemon", "project"]

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


def diff_ids(built: Built) -> list[str]:
    """The layers of the image, from the base up."""
    return [layer["diff_id"] for layer in built.image["layers"]]


DOCKERFILE = """FROM BASE AS tools
RUN echo tool >/tool && chmod 700 /tool
FROM BASE
ARG version
RUN echo $version >/version
COPY --link a d /x/
COPY --link --from=tools --chown=7 /tool /x/tool
ADD --link --chmod=600 <<here /here
text
here
RUN cat /version /x/tool >/after
"""


def test_layers_are_kept_when_what_is_below_changes(project: Project) -> None:
    project.write({"a": "1", "d/e/f": "2"})
    first = project.build(DOCKERFILE, "--build-arg", "version=1")
    again = project.build("", "--build-arg", "version=2", tag="app:2")
    kept = [how for name, how in again.steps.items() if "--link" in name]
    assert kept == ["cached"] * 3
    assert (again.steps["RUN echo $version >/version"], again.steps["RUN cat /version /x/tool >/after"]) == (
        "done",
        "done",
    )
    assert [one == other for one, other in zip(diff_ids(first), diff_ids(again), strict=True)][-5:] == [
        False,
        True,
        True,
        True,
        False,
    ]
    look = "cat /x/a /x/e/f /here /after; stat -c '%u:%g %a' /x/tool /here"
    assert project.run("sh", "-c", look, tag="app:2").split() == ["12text", "2", "tool", "7:7", "700", "0:0", "600"]
    assert project.build("", "--build-arg", "version=1").image["id"] == first.image["id"]
    whole(project.daemon)


def test_nothing_of_what_is_below_counts(project: Project) -> None:
    project.write({"f": "new"})
    project.build(
        "FROM BASE\nRUN mkdir /real /t && chmod 1777 /t && ln -s /real /to && mkdir -p /n/sub && touch /n/sub/x\n"
        "COPY --link f /to/\nCOPY --link f /t/\nCOPY --link f /n\n"
    )
    look = "ls /real; cat /to/f; test ! -L /to; stat -c %a /t; cat /n"
    assert project.run("sh", "-c", look) == "new755\nnew"


def test_owners_by_name_are_those_of_the_files_below(project: Project) -> None:
    project.write({"f": "1"})
    lines = "FROM BASE\nARG id\nRUN echo app:x:$id:$id::/:/bin/sh >>/etc/passwd\nCOPY --link --chown=app f /x/f\n"
    for number, how in ((1001, "done"), (1002, "done"), (1001, "cached")):
        built = project.build(lines + f"LABEL run={number}\nRUN true {how}\n", "--build-arg", f"id={number}")
        assert built.steps["COPY --link --chown=app f /x/f"] == how
        assert project.run("stat", "-c", "%u:%g", "/x", "/x/f").split() == [f"{number}:{number}"] * 2
    for line in ("COPY --link --chown=app f /x", "COPY --chown=app f /x"):
        lost = project.build(f"FROM scratch\n{line}\n", check=False)
        assert "Dockerfile:2: COPY --chown=app: unable to find user app" in lost.error
