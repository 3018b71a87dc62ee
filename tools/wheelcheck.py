"""Check a built wheel: everything it installs lies below `moorage/`, and the generated code and type marker are in it.

Usage: python -m tools.wheelcheck DIST
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

EXPECTED = (
    "moorage/server/main.py",
    "moorage/client/main.py",
    *(f"moorage/v1/runtime{ending}" for ending in (".proto", "_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")),
    "moorage/v1/py.typed",
    *(f"moorage/cri/v1/api{ending}" for ending in (".proto", "_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")),
    "moorage/cri/v1/py.typed",
)


def faults(names: list[str]) -> list[str]:
    """What is wrong with a wheel that holds `names`."""
    stray = [name for name in names if not name.startswith("moorage/") and ".dist-info/" not in name]
    return [f"installs {name} outside moorage/" for name in stray] + [
        f"lacks {name}" for name in EXPECTED if name not in names
    ]


def main() -> int:
    wheels = sorted(Path(sys.argv[1]).glob("*.whl"))
    sdists = sorted(Path(sys.argv[1]).glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        sys.stderr.write(f"expected one wheel and one sdist in {sys.argv[1]}, found {len(wheels)} and {len(sdists)}\n")
        return 1
    found = faults(zipfile.ZipFile(wheels[0]).namelist())
    for fault in found:
        sys.stderr.write(f"{wheels[0].name}: {fault}\n")
    if not found:
        sys.stdout.write(f"{wheels[0].name} and {sdists[0].name} are in order\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
