"""OCI runtimes without running one: their configuration, their command lines, their errors, what they say of themselves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from moorage.server import config
from moorage.server.errors import FailedPrecondition, InvalidArgument
from moorage.server.execdriver.runtimeoptions import OciRuntime, from_toml
from moorage.server.execdriver.runtimes import examine, lost
from moorage.server.supervisor import bundle, ociruntime

RUNC = ociruntime.Runtime("runc", "/usr/sbin/runc", "/run/x", ("--debug",))


@pytest.mark.parametrize(
    ("said", "code", "number"),
    [
        ('unable to start container process: exec: "x": executable file not found in $PATH', 127, 2),
        ('unable to start container process: exec: "/x": stat /x: no such file or directory', 127, 2),
        ("executable file `x` not found in $PATH: No such file or directory", 127, 2),
        ('unable to start container process: exec: "/etc": permission denied', 126, 13),
        ("open executable: Operation not permitted", 126, 13),
        ("open executable: Permission denied", 126, 13),
        ('unable to start container process: exec: "/etc": is a directory', 126, 21),
        ("exec container process `/x`: Exec format error", 126, 8),
        ("error mounting /a to rootfs at /b: no such file or directory", 128, 0),
        ("open /proc/self/attr/exec: permission denied", 128, 0),
    ],
)
def test_an_error_has_a_shells_exit_code(said: str, code: int, number: int) -> None:
    log = json.dumps({"level": "warning", "msg": "other"}) + "\n" + json.dumps({"level": "error", "msg": said})
    error = ociruntime.failure(RUNC, "create", log, 1)
    assert (error.exit_code, error.errno, error.stage) == (code, number, "create")
    assert error.message == f"OCI runtime runc: {said}"


@pytest.mark.parametrize("log", ["", "no JSON\n", "[1]\n", '{"level": "info", "msg": "x"}\n'])
def test_an_error_that_says_nothing(log: str) -> None:
    error = ociruntime.failure(RUNC, "create", log, 139)
    assert error.message == "OCI runtime runc: create ended with 139 and did not say why"
    assert error.exit_code == 128


def test_the_command_line() -> None:
    expected = ["/usr/sbin/runc", "--debug", "--root", "/run/x", "--log", "l", "--log-format", "json", "start", "id"]
    assert ociruntime.command_line(RUNC, "start", "id", log="l") == expected
    assert ociruntime.delete_command(RUNC, "id") == [
        "/usr/sbin/runc",
        "--debug",
        "--root",
        "/run/x",
        "delete",
        "--force",
        "id",
    ]


def test_the_state_is_the_pods_unless_it_has_a_place() -> None:
    pod = Path("/run/moorage/pods/p")
    assert ociruntime.parse(OciRuntime("a", "/a").message(pod)).root == "/run/moorage/pods/p/oci"
    assert ociruntime.parse(OciRuntime("a", "/a", "/run/a").message(pod)).root == "/run/a"


def test_the_configuration() -> None:
    found = from_toml(
        {"runc": {"path": "/usr/sbin/runc", "root": "/run/r", "args": ["--debug"]}, "b.1": {"path": "/b"}}
    )
    assert found == (OciRuntime("runc", "/usr/sbin/runc", "/run/r", ("--debug",)), OciRuntime("b.1", "/b"))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([], "table of tables"),
        ({"runc": []}, "must be a table"),
        ({"moorage": {"path": "/a"}}, "no runtime can have that name"),
        ({"a b": {"path": "/a"}}, "no runtime can have that name"),
        ({"a": {}}, "path must be the absolute path"),
        ({"a": {"path": "runc"}}, "path must be the absolute path"),
        ({"a": {"path": "/a", "root": "b"}}, "root must be an absolute path"),
        ({"a": {"path": "/a", "args": "-x"}}, "args must be a list"),
        ({"a": {"path": "/a", "typ": "x"}}, "unknown key 'typ'"),
    ],
)
def test_a_configuration_that_cannot_be(table: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        from_toml(table)


def test_a_handler_is_one_thing(tmp_path: Path) -> None:
    path = tmp_path / "moorage.toml"
    path.write_text('[runtimes.runc]\npath = "/usr/sbin/runc"\n[cri]\nruntime_handlers = ["runc"]\n')
    with pytest.raises(InvalidArgument, match="'runc' is that of"):
        config.load(str(path), {})


def script(path: Path, body: str) -> OciRuntime:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return OciRuntime(path.name, os.fspath(path))


@pytest.mark.parametrize(
    ("features", "rro", "users"),
    [
        ('echo \'{"mountOptions": ["ro", "rro"]}\'', True, False),
        ('echo \'{"mountOptions": ["ro"], "linux": {"namespaces": ["pid", "user"]}}\'', False, True),
        ('echo \'{"linux": {"namespaces": null}}\'', False, False),
        ("echo {}", False, False),
        ("echo []", False, False),
        ("echo what", False, False),
        ("exit 1", False, False),
    ],
)
def test_a_runtime_says_what_it_can(tmp_path: Path, features: str, rro: bool, users: bool) -> None:
    runtime = script(tmp_path / "some", f'[ "$1" = --version ] && echo some 1.2 && echo more && exit\n{features}')
    found = examine(runtime)
    assert (found.version, found.recursive_read_only, found.user_namespaces) == ("some 1.2", rro, users)
    assert list(lost([runtime])) == []


def test_a_runtime_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="ended with 3: broken") as failed:
        examine(script(tmp_path / "some", "echo broken >&2; exit 3"))
    assert "[runtimes.some]" in failed.value.hint
    gone = OciRuntime("gone", os.fspath(tmp_path / "gone"))
    with pytest.raises(FailedPrecondition, match="no such file"):
        examine(gone)
    assert len(list(lost([gone]))) == 1


def test_a_bundle_is_deleted_but_nothing_in_what_it_shows(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    for directory in (whole, whole / "rootfs", whole / "mounts", whole / "mounts" / "1"):
        directory.mkdir()
    (whole / "config.json").touch()
    (whole / "mounts" / "0").touch()
    bundle.remove(os.fspath(whole))
    assert list(tmp_path.iterdir()) == []
    bundle.remove(os.fspath(whole))
    (whole / "rootfs").mkdir(parents=True)
    (whole / "rootfs" / "precious").touch()
    with pytest.raises(OSError, match="not empty"):
        bundle.remove(os.fspath(whole))
    assert (whole / "rootfs" / "precious").exists()
