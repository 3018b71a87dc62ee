"""References as they are written on the command line; what they mean is the daemon's to say."""

from __future__ import annotations


def split(name: str) -> tuple[str, str]:
    """Repository and tag of a reference; no tag where it has none."""
    path = name.partition("@")[0]
    colon = path.find(":", path.rfind("/") + 1)
    return (path, "") if colon < 0 else (path[:colon], path[colon + 1 :])


def is_repository(name: str) -> bool:
    """Whether a reference has neither tag nor digest."""
    return split(name) == (name, "")
