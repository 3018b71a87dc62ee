"""Names for containers that were given none."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

from moorage.server.errors import InvalidArgument

VALID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")

ADJECTIVES = [
    "amber",
    "brisk",
    "calm",
    "clear",
    "coral",
    "deep",
    "drifting",
    "early",
    "even",
    "fair",
    "far",
    "fathomless",
    "foaming",
    "free",
    "fresh",
    "gentle",
    "glad",
    "glassy",
    "golden",
    "green",
    "grey",
    "high",
    "hidden",
    "keen",
    "late",
    "light",
    "long",
    "low",
    "misty",
    "moonlit",
    "northern",
    "open",
    "pale",
    "quiet",
    "rapid",
    "restful",
    "rolling",
    "rosy",
    "salty",
    "silent",
    "silver",
    "slow",
    "small",
    "smooth",
    "southern",
    "spring",
    "stable",
    "starry",
    "steady",
    "still",
    "sunlit",
    "swift",
    "tidal",
    "tranquil",
    "upper",
    "warm",
    "western",
    "white",
    "wide",
    "windward",
    "winter",
    "young",
]
NOUNS = [
    "anchor",
    "bay",
    "beacon",
    "boat",
    "bow",
    "breeze",
    "brig",
    "buoy",
    "cable",
    "canal",
    "cape",
    "capstan",
    "channel",
    "cleat",
    "coast",
    "compass",
    "cove",
    "crane",
    "cutter",
    "deck",
    "delta",
    "dinghy",
    "dock",
    "estuary",
    "ferry",
    "fjord",
    "galley",
    "gull",
    "harbour",
    "haven",
    "helm",
    "hull",
    "inlet",
    "island",
    "jetty",
    "keel",
    "ketch",
    "lagoon",
    "lantern",
    "launch",
    "lock",
    "mast",
    "mole",
    "oar",
    "pier",
    "pilot",
    "port",
    "prow",
    "quay",
    "raft",
    "reef",
    "rudder",
    "sail",
    "schooner",
    "shoal",
    "shore",
    "slip",
    "sloop",
    "sound",
    "spar",
    "stern",
    "strait",
    "tide",
    "tiller",
    "wharf",
    "yawl",
]


def made_up(taken: Callable[[str], bool]) -> str:
    """A name like `quiet_harbour` that is not taken."""
    for attempt in range(100):
        name = f"{secrets.choice(ADJECTIVES)}_{secrets.choice(NOUNS)}"
        if attempt > 2:
            name += secrets.token_hex(2)
        if not taken(name):
            return name
    return f"container_{secrets.token_hex(8)}"


def check(name: str, what: str) -> str:
    """The name itself when it may be one. Raises InvalidArgument."""
    if not VALID.fullmatch(name):
        raise InvalidArgument(
            f"invalid {what} name {name!r}: only [a-zA-Z0-9][a-zA-Z0-9_.-]* of at most 128 characters is allowed",
            field="name",
        )
    return name
