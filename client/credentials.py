"""The credentials that `moorage login` keeps: in the Docker client's `config.json`, or in the credential helper that it names.

Nothing here loads gRPC. Helpers are `docker-credential-NAME` on the PATH: run with `get`, `store` or `erase`, given the server or JSON on
stdin. What else the file holds is left as it is.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moorage.client.errors import FailedPrecondition

DOCKER_HUB = "https://index.docker.io/v1/"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io", "hub.docker.com")
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_TIMEOUT = 30.0
_TOKEN_USER = "<token>"
"""The user name by which a helper says that the secret is an identity token."""


@dataclass(frozen=True)
class Credentials:
    """What to show one registry. Secrets are left out of its repr."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def registry_of(reference: str) -> str:
    """The registry that a reference is about: what is before its first slash when that looks like a host, else Docker Hub."""
    first, slash, _ = reference.split("://", 1)[-1].partition("/")
    named = slash and (first == "localhost" or any(c in ".:[" or c.isupper() for c in first))
    return first if named and first not in _HUB_NAMES else "docker.io"


def registry_named(text: str) -> str:
    """The registry that someone means by its name, or by a URL of it."""
    return registry_of(f"{text.split('://', 1)[-1].rstrip('/')}/")


class Store:
    """The credentials in one file and its helpers. Methods raise FailedPrecondition with the file or helper and the cause."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"

    def get(self, registry: str) -> Credentials | None:
        """What is kept for a registry."""
        config = self._read()
        helper = self._helper(config, registry)
        if helper:
            answer = self._run(helper, "get", _server(registry).encode())
            if answer is not None:
                return _from_helper(answer)
        entry = next((value for key, value in _auths(config).items() if _same(key, registry)), None)
        return _from_entry(self.path, registry, entry) if isinstance(entry, dict) else None

    def put(self, registry: str, credentials: Credentials) -> str:
        """Keep credentials for a registry; answers where they are now."""
        config = self._read()
        helper = self._helper(config, registry)
        if helper:
            user, secret = credentials.username, credentials.password
            if credentials.identity_token:
                user, secret = _TOKEN_USER, credentials.identity_token
            entry = {"ServerURL": _server(registry), "Username": user, "Secret": secret}
            self._run(helper, "store", json.dumps(entry).encode())
            return f"docker-credential-{helper}"
        pair = f"{credentials.username}:{credentials.password}".encode()
        kept = {"auth": base64.b64encode(pair).decode()}
        if credentials.identity_token:
            kept["identitytoken"] = credentials.identity_token
        auths = {key: value for key, value in _auths(config).items() if not _same(key, registry)}
        self._write({**config, "auths": {**auths, _server(registry): kept}})
        return str(self.path)

    def erase(self, registry: str) -> bool:
        """Forget a registry's credentials; answers whether there were any."""
        config = self._read()
        helper = self._helper(config, registry)
        known = False
        if helper and self._run(helper, "get", _server(registry).encode()) is not None:
            self._run(helper, "erase", _server(registry).encode())
            known = True
        auths = _auths(config)
        kept = {key: value for key, value in auths.items() if not _same(key, registry)}
        if kept != auths:
            self._write({**config, "auths": kept})
            known = True
        return known

    def _helper(self, config: dict[str, Any], registry: str) -> str:
        helpers = config.get("credHelpers")
        named = helpers if isinstance(helpers, dict) else {}
        name = named.get(_server(registry)) or named.get(registry) or config.get("credsStore") or ""
        if name and not (isinstance(name, str) and _HELPER_NAME.fullmatch(name)):
            raise FailedPrecondition(f"{self.path} names the credential helper {name!r}, which is not a program's name")
        return str(name)

    def _read(self) -> dict[str, Any]:
        try:
            config = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise FailedPrecondition(f"cannot read {self.path}: {(error.strerror or '').lower()}") from error
        except ValueError as error:
            raise FailedPrecondition(f"{self.path} is not JSON: {error}", hint="repair or remove it") from error
        if not isinstance(config, dict):
            raise FailedPrecondition(f"{self.path} is not a Docker client's configuration", hint="repair or remove it")
        return config

    def _write(self, config: dict[str, Any]) -> None:
        """Whole or not at all, for the owner's eyes only."""
        import tempfile  # takes longer to load than the rest of this, and only logins write

        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A link stays one: what it leads to is replaced.
            target = self.path.resolve()
            with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=".config", delete=False) as draft:
                json.dump(config, draft, indent="\t")
                draft.write("\n")
            Path(draft.name).replace(target)
        except OSError as error:
            raise FailedPrecondition(f"cannot write {self.path}: {(error.strerror or '').lower()}") from error

    def _run(self, helper: str, action: str, data: bytes) -> bytes | None:
        """What a helper answers; None when it has nothing for the server."""
        program = f"docker-credential-{helper}"
        try:
            done = subprocess.run(
                [program, action],
                input=data,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_HELPER_TIMEOUT,
            )
        except OSError as error:
            why = (error.strerror or "").lower()
            raise FailedPrecondition(f"cannot run {program}, which {self.path} names: {why}") from error
        except subprocess.TimeoutExpired:
            raise FailedPrecondition(f"{program} does not answer within {_HELPER_TIMEOUT:.0f} s") from None
        if done.returncode and action == "get" and b"credentials not found" in done.stdout:
            return None
        if done.returncode:
            raise FailedPrecondition(f"{program} {action} fails with exit status {done.returncode}")
        return done.stdout


def _server(registry: str) -> str:
    return DOCKER_HUB if registry in _HUB_NAMES else registry


def _same(key: str, registry: str) -> bool:
    host = key.split("://", 1)[-1].split("/", 1)[0]
    return host == registry or (host in _HUB_NAMES and registry in _HUB_NAMES)


def _auths(config: dict[str, Any]) -> dict[str, Any]:
    auths = config.get("auths")
    return auths if isinstance(auths, dict) else {}


def _from_entry(path: Path, registry: str, entry: dict[str, Any]) -> Credentials | None:
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        try:
            username, colon, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if not colon:
            raise FailedPrecondition(f'"auth" of {registry} in {path} is not the base64 of user:password')
    found = Credentials(username, password.rstrip("\0"), str(entry.get("identitytoken") or ""))
    return found if found != Credentials() else None


def _from_helper(answer: bytes) -> Credentials | None:
    try:
        fields = json.loads(answer)
        username, secret = str(fields.get("Username") or ""), str(fields.get("Secret") or "")
    except (ValueError, AttributeError):
        raise FailedPrecondition("the credential helper answers something that is not credentials in JSON") from None
    if username == _TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(username, secret) if username else None
