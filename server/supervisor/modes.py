"""Symbolic modes, as chmod(1) takes them, applied to a file's own mode.

A mode is a list of changes [who, operation, what]: `who` of the letters u, g and o; `operation` +, - or =; `what` of the letters r, w, x,
X, s and t, or one of u, g and o for the bits of that class.
"""

from __future__ import annotations

from collections.abc import Sequence

SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}
_SPECIAL = {"u": 0o4000, "g": 0o2000, "o": 0o1000}


def changed(mode: int, changes: Sequence[Sequence[str]], *, directory: bool) -> int:
    """The mode of a file or directory after the changes, one after the other."""
    for who, operation, what in changes:
        before = mode
        for each in who:
            bits = _bits(each, what, before, directory=directory)
            if operation == "+":
                mode |= bits
            elif operation == "-":
                mode &= ~bits
            else:
                mode = mode & ~(7 << SHIFTS[each] | _SPECIAL[each]) | bits
    return mode


def _bits(who: str, what: str, mode: int, *, directory: bool) -> int:
    """What the letters mean for one class."""
    if what in SHIFTS:
        return (mode >> SHIFTS[what] & 7) << SHIFTS[who]
    bits = 0
    for letter in what:
        if letter in _BITS:
            bits |= _BITS[letter] << SHIFTS[who]
        elif letter == "X":
            bits |= 1 << SHIFTS[who] if directory or mode & 0o111 else 0
        elif (letter == "s") == (who != "o"):
            bits |= _SPECIAL[who]
    return bits
