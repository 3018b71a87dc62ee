"""--chmod: octal and symbolic modes, beside what chmod(1) makes of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from moorage.server.builder.modes import parse
from moorage.server.supervisor.modes import changed

SYMBOLIC = (
    "a+x",
    "u=rwx,go=rx",
    "go-w,u+X",
    "a=r",
    "ug+rw,o=",
    "g=u",
    "o=g",
    "u+s,g+s",
    "+t",
    "a-x+X",
    "u-rw,a+X",
    "ugo=rwX",
    "g+w-x",
    "=",
)


@pytest.mark.parametrize("text", SYMBOLIC)
@pytest.mark.parametrize("mode", [0o644, 0o755, 0o600, 0o4750, 0o1777, 0])
@pytest.mark.parametrize("directory", [False, True])
def test_symbolic_modes_are_those_of_chmod(tmp_path: Path, text: str, mode: int, directory: bool) -> None:
    path = tmp_path / "it"
    path.mkdir() if directory else path.touch()
    path.chmod(mode)
    # Without umask, which counts where nobody is named.
    subprocess.run(["chmod", "--", text, str(path)], check=True, umask=0)
    wanted = path.stat().st_mode & 0o7777
    changes = parse(text)
    assert not isinstance(changes, int)
    found = changed(mode, changes, directory=directory)
    if directory:
        # chmod(1) spares a directory's own bits where it is told nothing of them.
        found, wanted = found & 0o777, wanted & 0o777
    assert oct(found) == oct(wanted)


@pytest.mark.parametrize(("text", "mode"), [("7", 0o7), ("755", 0o755), ("0644", 0o644), ("4711", 0o4711)])
def test_octal_modes(text: str, mode: int) -> None:
    assert parse(text) == mode


@pytest.mark.parametrize("text", ["", "8", "75555", "x", "u", "u=q", "+x,", "z+x", "u=rx go=r", "-", "u=gr"])
def test_what_is_no_mode(text: str) -> None:
    if text == "-":
        assert parse(text) == [["ugo", "-", ""]]
        return
    with pytest.raises(ValueError, match="neither an octal mode"):
        parse(text)
