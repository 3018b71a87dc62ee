"""Credentials of a Docker client's `config.json`: its "auths", and the helper programs it names.

Helpers are `docker-credential-NAME` on the PATH: run with `get`, given the server on stdin, they answer JSON on stdout.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from moorage.server.errors import FailedPrecondition
from moorage.server.registry.problems import shown

DOCKER_HUB = "https://index.docker.io/v1/"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_TIMEOUT = 30.0
_MAX_CONFIG = 1 << 20
_MAX_ANSWER = 1 << 20
_TOKEN_USER = "<token>"
"""The user name by which a helper says that the secret is an identity token."""


@dataclass(frozen=True)
class RegistryAuth:
    """What to show one registry. Secrets are left out of its repr."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.password or self.identity_token or self.registry_token)

    def basic(self) -> str:
        """The value of an Authorization header for Basic (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class _Entry(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class _Config(msgspec.Struct):
    auths: dict[str, _Entry] = {}
    cred_helpers: dict[str, str] = msgspec.field(name="credHelpers", default_factory=dict)
    creds_store: str = msgspec.field(name="credsStore", default="")


class _HelperAnswer(msgspec.Struct):
    username: str = msgspec.field(name="Username", default="")
    secret: str = msgspec.field(name="Secret", default="")


def default_path() -> Path:
    """`$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def lookup(path: Path, host: str) -> RegistryAuth | None:
    """The credentials for `host` (`name` or `name:port`, as in a reference), or None.

    Raises FailedPrecondition that names the file or helper and what is wrong with it, never its content.
    """
    config = _read(path)
    if config is None:
        return None
    server = DOCKER_HUB if host in _HUB_NAMES else host
    helper = config.cred_helpers.get(server) or config.cred_helpers.get(host) or config.creds_store
    found = _ask_helper(path, helper, server) if helper else None
    return found or _from_auths(path, config.auths, host)


def _read(path: Path) -> _Config | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CONFIG + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _broken(f"cannot read {path}: {(error.strerror or '').lower()}") from error
    if len(data) > _MAX_CONFIG:
        raise _broken(f"{path} is larger than {_MAX_CONFIG} bytes")
    try:
        return msgspec.json.decode(data, type=_Config)
    except msgspec.MsgspecError as error:
        raise _broken(f"{path} is not a Docker client's configuration: {str(error)[:200]}") from None


def _from_auths(path: Path, auths: dict[str, _Entry], host: str) -> RegistryAuth | None:
    names = _HUB_NAMES if host in _HUB_NAMES else (host,)
    entry = auths.get(host)
    if entry is None:
        entry = next((value for key, value in auths.items() if _host_of(key) in names), None)
    if entry is None:
        return None
    username, password = entry.username, entry.password
    if entry.auth:
        username, password = _decode_auth(path, host, entry.auth)
    auth = RegistryAuth(username, password, entry.identitytoken, entry.registrytoken)
    return auth or None


def _host_of(key: str) -> str:
    """The host of a key of "auths", which may be a host or an old-style URL like `https://host/v1/`."""
    return key.split("://", 1)[-1].split("/", 1)[0]


def _decode_auth(path: Path, host: str, encoded: str) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        raise _broken(f'"auth" of {host} in {path} is not the base64 of user:password')
    return username, password.rstrip("\0")


def _ask_helper(path: Path, name: str, server: str) -> RegistryAuth | None:
    program = f"docker-credential-{name}"
    if not _HELPER_NAME.fullmatch(name):
        raise _broken(f"{path} names the credential helper {shown(name)}, which is not a program's name")
    try:
        process = subprocess.Popen(
            [program, "get"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise _broken(f"cannot run {program}, which {path} names: {(error.strerror or '').lower()}") from error
    with process:
        try:
            output, _ = process.communicate(server.encode(), timeout=_HELPER_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise _broken(f"{program} does not answer within {_HELPER_TIMEOUT:.0f} s") from None
    if process.returncode != 0:
        # The protocol puts the error on stdout; "not found" is how a helper says that it has nothing for this server.
        if b"credentials not found" in output:
            return None
        raise _broken(f"{program} fails for {server} with exit status {process.returncode}")
    return _parse_answer(program, output)


def _parse_answer(program: str, output: bytes) -> RegistryAuth | None:
    try:
        if len(output) > _MAX_ANSWER:
            raise ValueError
        answer = msgspec.json.decode(output, type=_HelperAnswer)
    except (msgspec.MsgspecError, ValueError):
        raise _broken(f"{program} answers something that is not credentials in JSON") from None
    if answer.username == _TOKEN_USER:
        return RegistryAuth(identity_token=answer.secret) or None
    return RegistryAuth(answer.username, answer.secret) or None


def _broken(message: str) -> FailedPrecondition:
    return FailedPrecondition(
        message, reason="REGISTRY_CREDENTIALS", hint="repair it, or give credentials with the call"
    )
