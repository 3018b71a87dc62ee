"""The plan and the layout: stages, targets, references, arguments, settings, and errors with their place."""

from __future__ import annotations

from typing import Any

import pytest

from moorage.server.builder.imagespec import ImageSpec
from moorage.server.builder.layout import CopyAction, DirectoryAction, Layout, RunAction, lay_out
from moorage.server.builder.parse import parse
from moorage.server.builder.plan import Plan, plan
from moorage.server.errors import InvalidArgument
from moorage.server.model import Platform

PLATFORM = Platform("linux", "amd64")


def planned(text: str, target: str = "", **arguments: str) -> Plan:
    return plan(parse(text.encode()), target=target, arguments=arguments, platform=PLATFORM)


def laid(text: str, base: dict[str, Any] | None = None, **arguments: str) -> Layout:
    """The layout of the target stage."""
    found = planned(text, **arguments)
    return lay_out(found, found.stages[found.target], ImageSpec(base))


def members(text: str, base: dict[str, Any] | None = None, **arguments: str) -> dict[str, Any]:
    return laid(f"FROM scratch\n{text}", base, **arguments).spec.members


def actions(text: str, **arguments: str) -> list[Any]:
    return [step.action for step in laid(f"FROM scratch\n{text}", None, **arguments).steps if step.action]


def told(text: str, target: str = "") -> str:
    with pytest.raises(InvalidArgument) as caught:
        found = planned(text, target)
        for stage in found.stages:
            lay_out(found, stage, ImageSpec())
    return caught.value.message


STAGES = """ARG BASE=one
FROM $BASE AS base
FROM base AS build
RUN a
FROM scratch AS unused
COPY --from=build /a /a
FROM other:2
COPY --from=build /x /x
COPY --from=1 /y /y
COPY --from=busybox:1 /z /z
"""


def test_stages_and_what_they_begin_with() -> None:
    found = planned(STAGES)
    assert [(each.name, each.image, each.parent) for each in found.stages] == [
        ("base", "one", None),
        ("build", "base", 0),
        ("unused", "scratch", None),
        ("", "other:2", None),
    ]
    assert (found.target, found.needed) == (3, (0, 1, 3))


@pytest.mark.parametrize(
    ("target", "needed"), [("build", (0, 1)), ("BASE", (0,)), ("unused", (0, 1, 2)), ("3", (0, 1, 3))]
)
def test_only_what_the_target_needs(target: str, needed: tuple[int, ...]) -> None:
    assert planned(STAGES, target).needed == needed


def test_arguments_of_from_lines() -> None:
    text = "ARG TAG=1\nARG NAME=app:${TAG:-0}\nFROM ${NAME}\n"
    assert planned(text).stages[0].image == "app:1"
    assert planned(text, TAG="7").stages[0].image == "app:7"
    assert planned("FROM --platform=$BUILDPLATFORM a").stages[0].image == "a"
    assert planned("FROM x\nARG USED", USED="1", OTHER="2", HTTP_PROXY="3").unused == ("OTHER",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "FROM a AS build\nFROM b\n\nCOPY --from=bulid x y",
            'Dockerfile:4: COPY --from=bulid: no such stage (did you mean "build"?)',
        ),
        ("FROM a\nCOPY --from=7 x y", "Dockerfile:2: COPY --from=7: no such stage, there are 1, counted from 0"),
        ("FROM a AS one\nCOPY --from=one x y", "Dockerfile:2: COPY --from=one: that is the stage itself"),
        ("FROM a\nCOPY --from=two x y\nFROM b AS two", "Dockerfile:2: COPY --from=two: that stage comes later"),
        ("FROM a AS x\nFROM b AS x", "Dockerfile:2: FROM … AS x: Dockerfile:1 has that name already"),
        ("RUN x\nFROM a", "Dockerfile:1: RUN before FROM: only ARG may stand there"),
        ("ARG x", "Dockerfile has no FROM"),
        ("FROM $nothing", "Dockerfile:1: FROM $nothing: no image is left when its variables are replaced"),
        (
            "FROM --platform=linux/arm64 a",
            "Dockerfile:1: FROM --platform=linux/arm64 is not offered: images are built for this host, linux/amd64",
        ),
        (
            "FROM a\nRUN --mount=type=cahce,target=/x y",
            'Dockerfile:2: RUN --mount=type=cahce: unknown type (did you mean "cache"?)',
        ),
        ("FROM a\nRUN --mount=type=ssh,env=X y", "Dockerfile:2: RUN --mount=type=ssh,env: unknown option"),
        ("FROM a\nRUN --mount=type=cache y", "Dockerfile:2: RUN --mount=type=cache needs a target"),
        (
            "FROM a\nRUN --mount=type=tmpfs,target=/x,size=1q y",
            "Dockerfile:2: RUN --mount=type=tmpfs,size=1q: not a size",
        ),
        ("FROM a\nENV x=${y:?is needed}", "Dockerfile:2: ENV: y: is needed"),
        ("FROM a\nCOPY x y z", "Dockerfile:2: COPY z: with several sources the target must be a directory"),
        (
            "FROM a\nCOPY --chmod=999 x y",
            "Dockerfile:2: COPY --chmod=999: neither an octal mode, such as 755, nor a symbolic one, such as u=rwX,go=rX",
        ),
        ("FROM a\nCOPY --chown='a b' x y", "Dockerfile:2: COPY --chown=a b: not name or name:group"),
        (
            "FROM a\nADD git@example.com:x /y",
            "Dockerfile:2: ADD git@example.com:x is not offered: only http and https are fetched",
        ),
        (
            "FROM a\nADD --checksum=sha256:1 http://x/y /z",
            "Dockerfile:2: ADD --checksum=sha256:1: needs sha256:… (sha384, sha512) and one URL, or a commit and one repository",
        ),
        (
            "FROM a\nRUN --mount=type=cache,target=/c,source=a x",
            "Dockerfile:2: RUN --mount=type=cache,source=a: of what? name it with from=",
        ),
        (
            "FROM a\nCOPY --parents a**/b /y",
            "Dockerfile:2: COPY --parents a**/b: ** is for whole directories that are kept",
        ),
        (
            "FROM a\nCOPY --parents **/./b /y",
            "Dockerfile:2: COPY --parents **/./b: ** is for whole directories that are kept",
        ),
        ("FROM a\nCOPY --exclude=!x . /y", "Dockerfile:2: COPY --exclude=!x: not a pattern of files to leave out"),
        (
            "FROM a\nADD http://x/y.git#.. /z",
            "Dockerfile:2: ADD http://x/y.git#..: '..' is not a branch, tag or commit",
        ),
        ("FROM a\nEXPOSE 99999", "Dockerfile:2: EXPOSE 99999: not a port, such as 80, 53/udp or 8000-8010"),
        ("FROM a\nSTOPSIGNAL SIGNONE", "Dockerfile:2: STOPSIGNAL SIGNONE: unknown signal"),
        (
            "FROM a\nLABEL moorage.x=1",
            "Dockerfile:2: LABEL moorage.x: names that begin with moorage. are the engine's own",
        ),
        ("FROM a\nUSER $nobody", "Dockerfile:2: USER $nobody: nothing is left when its variables are replaced"),
        ("FROM a\nVOLUME /a/../b", "Dockerfile:2: VOLUME /a/../b: there is a .. in it"),
    ],
)
def test_errors_name_the_place(text: str, message: str) -> None:
    assert told(text) == message


def test_an_unknown_target() -> None:
    assert told(STAGES, "bild") == 'Dockerfile: target bild: no such stage (did you mean "build"?)'


def test_environment_and_arguments() -> None:
    found = members("ARG a=1\nENV b=$a c=$b\nENV c=${c:-$b}-x\nENV a=2\nENV d=$a", a="9")
    assert found["Env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "b=9",
        "c=9-x",
        "a=2",
        "d=2",
    ]


def test_a_global_argument_is_known_once_it_is_declared() -> None:
    text = "ARG v=1\nFROM scratch\nENV a=x$v\nARG v\nENV b=x$v\nARG v=2\nENV c=x$v"
    assert laid(text).spec.env == {**laid("FROM scratch").spec.env, "a": "x", "b": "x1", "c": "x2"}


def test_settings() -> None:
    found = members(
        'USER app:staff\nWORKDIR /srv\nWORKDIR sub/../x\nEXPOSE 80 8000-8001/UDP\nVOLUME ["/data", "v"]\nLABEL a="b c" d=e\n'
        "STOPSIGNAL SIGQUIT\nONBUILD RUN x\nHEALTHCHECK --interval=5s --retries=2 CMD true"
    )
    assert (found["User"], found["WorkingDir"], found["StopSignal"]) == ("app:staff", "/srv/x", "SIGQUIT")
    assert sorted(found["ExposedPorts"]) == ["80/tcp", "8000/udp", "8001/udp"]
    assert sorted(found["Volumes"]) == ["/data", "/v"]
    assert found["Labels"] == {"a": "b c", "d": "e"}
    assert found["OnBuild"] == ["RUN x"]
    assert found["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9, "Retries": 2}
    assert members("HEALTHCHECK NONE")["Healthcheck"] == {"Test": ["NONE"]}


def test_commands_and_the_shell() -> None:
    found = members('SHELL ["/bin/ash", "-c"]\nCMD a b\nENTRYPOINT ["x"]', {"Cmd": ["old"]})
    assert (found["Cmd"], found["Entrypoint"], found["Shell"]) == (["/bin/ash", "-c", "a b"], ["x"], ["/bin/ash", "-c"])
    assert "Cmd" not in members('ENTRYPOINT ["x"]', {"Cmd": ["old"]})
    assert "Cmd" not in members("CMD []", {"Cmd": ["old"]})


def test_what_the_image_says_is_kept() -> None:
    base = {"Env": ["PATH=/bin", "a=1"], "Labels": {"x": "1"}, "Unknown": [1], "ExposedPorts": {"1/tcp": {}}}
    found = members("LABEL y=2\nEXPOSE 2", base)
    assert found == {**base, "Labels": {"x": "1", "y": "2"}, "ExposedPorts": {"1/tcp": {}, "2/tcp": {}}}


def test_triggers_run_once() -> None:
    found = laid("FROM scratch\nCMD c", {"OnBuild": ["ENV a=1", "COPY x /y/"]})
    assert [step.text for step in found.steps] == ["ENV a=1", "COPY x /y/", "CMD c"]
    assert found.spec.env["a"] == "1"
    assert "OnBuild" not in found.spec.members


def test_run() -> None:
    text = 'ARG v=1\nENV e=$v\nWORKDIR /w\nUSER u\nRUN --network=none a "$v"\nRUN ["x", "$v"]'
    directory, first, second = actions(text, HTTP_PROXY="p")
    assert directory == DirectoryAction("/w")
    assert first.args == ("/bin/sh", "-c", 'a "$v"')
    assert {"v=1", "e=1"} < set(first.env)
    assert (first.working_dir, first.user, first.network, first.hidden) == ("/w", "u", "none", ("HTTP_PROXY=p",))
    assert second.args == ("x", "$v")


def test_run_with_here_documents() -> None:
    script, with_shebang, piped = actions(
        "RUN <<EOF\na\nb $x\nEOF\nRUN <<EOF\n#!/bin/awk -f\nx\nEOF\nRUN cat <<-A > /x\n\tone\n\tA\n"
    )
    assert script.args == ("/bin/sh", "-c", "a\nb $x\n")
    assert (with_shebang.args, with_shebang.script) == (("/dev/moorage-script",), "#!/bin/awk -f\nx\n")
    assert piped.args == ("/bin/sh", "-c", "cat <<-A > /x\none\nA\n")


def test_mounts_of_run() -> None:
    (run,) = actions(
        "ARG n=c\nRUN --mount=type=cache,dst=/c,id=$n,sharing=locked,mode=700 --mount=target=/s,src=a,ro"
        " --mount=type=secret,id=k --mount=type=secret,id=t,env=T --mount=type=tmpfs,target=/t,size=1m x"
    )
    cache, bind, secret, variable, tmpfs = run.mounts
    assert (cache.kind, cache.target, cache.id, cache.sharing, cache.mode) == ("cache", "/c", "c", "locked", 0o700)
    assert (bind.kind, bind.target, bind.source, bind.read_only) == ("bind", "/s", "a", True)
    assert (secret.target, secret.mode) == ("/run/secrets/k", 0o400)
    assert (variable.target, variable.variable) == ("", "T")
    assert tmpfs.size == 1 << 20


def test_copy() -> None:
    text = "FROM scratch AS s\nFROM scratch\nWORKDIR /w\nENV d=dir\nCOPY a /b ../../c $d/\n"
    text += "COPY --from=s --chown=1:2 --chmod=0644 x .\nCOPY y z"
    found = laid(text)
    several, from_stage, plain = [step.action for step in found.steps if isinstance(step.action, CopyAction)]
    assert (several.sources, several.target) == (("a", "b", "c"), "/w/dir/")
    assert (from_stage.origin, from_stage.owner, from_stage.mode, from_stage.target) == (0, "1:2", "0644", "/w/")
    assert (plain.target, plain.origin, found.needs) == ("/w/z", None, {0})


def test_copy_of_here_documents() -> None:
    (copied,) = actions("ENV n=1\nCOPY <<a <<'b' x /d/\n$n \"q\"\na\n$n\nb")
    assert [(each.name, each.data) for each in copied.inline] == [("a", b'1 "q"\n'), ("b", b"$n\n")]
    assert copied.sources == ("x",)


def test_add() -> None:
    digest = "sha256:" + "0" * 64
    url, archive, plain = actions(
        f"ADD --checksum={digest} https://x.example/a /b\nADD a.tar /x/\nADD --unpack=false a.tar /x/"
    )
    assert (url.urls, url.checksum, url.sources) == (("https://x.example/a",), digest, ())
    assert (archive.unpack, plain.unpack) == (True, False)


def test_one_layout_does_not_change_another() -> None:
    base = ImageSpec({"Env": ["PATH=/bin"]})
    found = planned("FROM scratch\nENV a=1\nLABEL x=1")
    lay_out(found, found.stages[0], base)
    assert base.members == {"Env": ["PATH=/bin"]}
    assert isinstance(actions("RUN x")[0], RunAction)
