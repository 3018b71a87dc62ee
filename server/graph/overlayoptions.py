"""What the configuration may say to a graph driver."""

from __future__ import annotations

from dataclasses import dataclass

VOLATILE = ("auto", "always", "never")
XATTRS = ("auto", "trusted", "user")


@dataclass(frozen=True)
class OverlayOptions:
    """The `[overlay]` table.

    `volatile`: which containers' files need not outlive a crash of the host, and so are never synced to the disk: those that nothing can
    start again (`auto`), all, or none. `metacopy`: a change of owner or mode does not copy a file's data up; such a container cannot be
    committed. `xattrs`: the extended attributes that overlay keeps its marks in, `trusted` where they can be set (`auto`).
    """

    volatile: str = "auto"
    metacopy: bool = False
    xattrs: str = "auto"


DEFAULTS = OverlayOptions()
