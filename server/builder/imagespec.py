"""An image's config while it is being built: the "config" object of the OCI image spec with Docker's additions, as plain data.

What an image that one builds upon says, and this does not know, is kept.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

DEFAULT_SHELL = ("/bin/sh", "-c")


class ImageSpec:
    """The settings of a stage. Names are those of the config's members."""

    def __init__(self, members: dict[str, Any] | None = None) -> None:
        self.members: dict[str, Any] = deepcopy(members or {})
        self.command_set = False
        """Whether this stage has a CMD of its own, which an ENTRYPOINT leaves alone."""

    def copy(self) -> ImageSpec:
        """One to change apart, as a stage begins with it."""
        return ImageSpec(self.members)

    @property
    def env(self) -> dict[str, str]:
        found = {}
        for entry in self.members.get("Env") or ():
            name, _, value = entry.partition("=")
            found[name] = value
        return found

    def set_env(self, name: str, value: str) -> None:
        self.members["Env"] = [f"{key}={text}" for key, text in {**self.env, name: value}.items()]

    @property
    def shell(self) -> tuple[str, ...]:
        return tuple(self.members.get("Shell") or DEFAULT_SHELL)

    @property
    def working_dir(self) -> str:
        return str(self.members.get("WorkingDir") or "/")

    @property
    def user(self) -> str:
        return str(self.members.get("User") or "")

    def set(self, name: str, value: Any) -> None:
        """Set a member; one that is empty goes."""
        if value:
            self.members[name] = value
        else:
            self.members.pop(name, None)

    def add_keys(self, name: str, keys: list[str]) -> None:
        """Add to a member that is a set: an object whose values are empty objects."""
        self.members[name] = {**(self.members.get(name) or {}), **{key: {} for key in keys}}

    def add_labels(self, labels: dict[str, str]) -> None:
        if labels:
            self.members["Labels"] = {**(self.members.get("Labels") or {}), **labels}

    def take_triggers(self) -> list[str]:
        """The ONBUILD instructions of the image built upon; they are run once, and not handed on."""
        return list(self.members.pop("OnBuild", None) or ())
