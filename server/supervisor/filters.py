"""Compiled seccomp programs, by the JSON text of their profile. Filled in the spawner, a fork has them for nothing."""

from __future__ import annotations

import json
from typing import NamedTuple

from moorage.server.libcontainer import seccomp

MAX_PROGRAMS = 8


class Program(NamedTuple):
    """A compiled profile. With a `name` it is one of those that the daemon gives by default, and asks for by that."""

    name: str
    code: bytes


_programs: dict[str, Program] = {}


def prime(profile: str, name: str = "") -> bytes:
    """Compile a profile (an OCI `linux.seccomp` object as JSON) and keep the program. Raises ValueError naming what is wrong."""
    code = seccomp.compile(json.loads(profile))
    if len(_programs) >= MAX_PROGRAMS:
        del _programs[next(iter(_programs))]
    _programs[profile] = Program(name, code)
    return code


def known(profile: str | None) -> bytes | None:
    """The program of a profile, if it is here."""
    program = _programs.get(profile) if profile else None
    return program.code if program else None


def name(profile: str | None) -> str | None:
    """The name of a profile's program; None without one."""
    program = _programs.get(profile) if profile else None
    return program.name if program else None


def named(name: str) -> bytes | None:
    """The program of that name, if it is here."""
    return next((program.code for program in _programs.values() if program.name == name), None)
