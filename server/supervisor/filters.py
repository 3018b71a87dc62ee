"""Compiled seccomp programs, by the JSON text of their profile. Filled in the spawner, a fork has them for nothing."""

from __future__ import annotations

import json

from moorage.server.libcontainer import seccomp

MAX_PROGRAMS = 8

_programs: dict[str, bytes] = {}


def prime(profile: str) -> bytes:
    """Compile a profile (an OCI `linux.seccomp` object as JSON) and keep the program. Raises ValueError naming what is wrong."""
    program = seccomp.compile(json.loads(profile))
    if len(_programs) >= MAX_PROGRAMS:
        del _programs[next(iter(_programs))]
    _programs[profile] = program
    return program


def known(profile: str | None) -> bytes | None:
    """The program of a profile, if it is here."""
    return _programs.get(profile) if profile else None
