"""OCI runtimes that are there: what each of them says of itself, and their part in cleaning up."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moorage.server.errors import FailedPrecondition
from moorage.server.execdriver.runtimeoptions import OciRuntime
from moorage.server.supervisor import ociruntime

SECONDS = 10.0
"""How long a runtime may take to say what it is, or to forget a container."""

log = logging.getLogger("moorage.runtimes")


@dataclass(frozen=True)
class Examined:
    """An OCI runtime that is there. `version` is its own; `recursive_read_only`, `user_namespaces`: it says that it knows those."""

    runtime: OciRuntime
    version: str
    recursive_read_only: bool
    user_namespaces: bool


def examine(runtime: OciRuntime) -> Examined:
    """Ask a runtime what it is and can. Raises FailedPrecondition when it is not there, or says nothing."""
    version = _said(runtime, "--version")
    features = _features(runtime)
    return Examined(
        runtime,
        version.partition("\n")[0].strip(),
        recursive_read_only="rro" in (features.get("mountOptions") or ()),
        user_namespaces="user" in ((features.get("linux") or {}).get("namespaces") or ()),
    )


def lost(runtimes: Iterable[OciRuntime]) -> Iterator[str]:
    """What is wrong with those that are not there any more."""
    for runtime in runtimes:
        if not os.access(runtime.path, os.X_OK):
            yield f"runtime {runtime.name}: {runtime.path} is not there any more; no container of it can be started or ended"


def _features(runtime: OciRuntime) -> dict[str, Any]:
    """What it says by `features` (OCI runtime-spec, features.md); nothing of those that have no such command."""
    try:
        features = json.loads(_said(runtime, "features"))
    except (FailedPrecondition, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _said(runtime: OciRuntime, command: str) -> str:
    try:
        done = subprocess.run([runtime.path, command], stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else f"no answer within {SECONDS:.0f} seconds"
        raise _unusable(runtime, f"{runtime.path}: {why.lower()}") from error
    if done.returncode:
        problem = done.stderr.decode("utf-8", "replace").strip()[:200]
        raise _unusable(runtime, f"{runtime.path} {command} ended with {done.returncode}: {problem}")
    return done.stdout.decode("utf-8", "replace")


def _unusable(runtime: OciRuntime, problem: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"runtime {runtime.name}: {problem}",
        hint=f"install it there, or change [runtimes.{runtime.name}] of the configuration, or take it out",
        runtime=runtime.name,
        path=runtime.path,
    )


def forget(told: Mapping[str, Any], identity: str) -> None:
    """Have the runtime of a supervisor that died forget a container. What fails is logged: the files are deleted all the same."""
    runtime = ociruntime.parse(told)
    try:
        line = ociruntime.delete_command(runtime, identity)
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("not forgotten", extra={"runtime": runtime.name, "container": identity, "error": str(error)})
        return
    if done.returncode:
        problem = done.stderr.decode("utf-8", "replace").strip()[:200]
        log.warning("not forgotten", extra={"runtime": runtime.name, "container": identity, "error": problem})
