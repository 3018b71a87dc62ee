"""The house holds: imports point one way, the kernel's side needs only the standard library, modules have one subject."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "server"
ROOMS = ("graph", "registry", "builder", "networkdriver", "execdriver")
SHARED = ("model", "errors", "cancel", "graph.drivers.base", "networkdriver.base", "execdriver.base")

# `supervisor.tarstream` is a pure reader of tar headers.
# What each part of server/ may import of server/ besides itself and SHARED. What is not named here wires the others: main and config.
ALLOWED = {
    "api": ("engine", "config", "streaming"),
    "engine": (*ROOMS, "libcontainer"),
    "graph": ("libcontainer", "supervisor.tarstream"),
    "registry": (),
    "builder": ("graph", "registry"),
    "networkdriver": ("graph.graphdb",),
    "execdriver": ("libcontainer", "supervisor"),
    "streaming": (),
    "supervisor": ("libcontainer",),
    "libcontainer": (),
}
STANDARD_LIBRARY_ONLY = ("libcontainer", "supervisor")
WIRE = ("grpc", "grpc_channelz", "grpc_health", "grpc_reflection", "grpc_status", "google", "moorage.v1", "moorage.cri")
LONGEST = 500


def modules(directory: Path) -> list[Path]:
    return [
        path for path in sorted(directory.rglob("*.py")) if "_pb2" not in path.name and "importroot" not in path.parts
    ]


def imports(path: Path) -> Iterator[str]:
    """Absolute names of what a module imports, wherever in it the import stands. `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def part_of(path: Path) -> str:
    return path.relative_to(SERVER).parts[0].removesuffix(".py")


SERVER_MODULES = modules(SERVER)
ALL_MODULES = [path for top in ("server", "client", "tools", "tests") for path in modules(ROOT / top)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [path for path in SERVER_MODULES if part_of(path) in ALLOWED], ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    shared = () if part in STANDARD_LIBRARY_ONLY else SHARED
    allowed = tuple(f"moorage.server.{name}" for name in (part, *ALLOWED[part], *shared))
    wrong = [name for name in imports(path) if within(name, ("moorage.server",)) and not within(name, allowed)]
    assert not wrong, f"{part} may not know of these"


@pytest.mark.parametrize(
    "path", [path for path in SERVER_MODULES if part_of(path) in STANDARD_LIBRARY_ONLY], ids=name_of
)
def test_the_kernel_side_is_standard_library_only(path: Path) -> None:
    own = tuple(f"moorage.server.{part}" for part in STANDARD_LIBRARY_ONLY)
    foreign = [
        name
        for name in imports(path)
        if name.partition(".")[0] not in sys.stdlib_module_names and not within(name, own)
    ]
    assert not foreign


@pytest.mark.parametrize(
    "path", [path for path in SERVER_MODULES if part_of(path) not in ("api", "__init__")], ids=name_of
)
def test_grpc_and_protobuf_stop_at_the_api(path: Path) -> None:
    """The version of the distribution is neither."""
    assert not [name for name in imports(path) if within(name, WIRE) and not within(name, ("moorage.v1.version",))]


@pytest.mark.parametrize("path", modules(ROOT / "client"), ids=name_of)
def test_the_client_knows_nothing_of_the_server(path: Path) -> None:
    """But for `moorage doctor`, which examines the host itself and so works where no daemon can."""
    known = [name for name in imports(path) if within(name, ("moorage.server",))]
    assert known == (["moorage.server.doctor"] if path.name == "doctor.py" else [])


@pytest.mark.parametrize("path", ALL_MODULES, ids=name_of)
def test_nothing_is_imported_by_its_folder(path: Path) -> None:
    assert not [name for name in imports(path) if within(name, ("server", "client", "protos"))]


def test_modules_have_one_subject() -> None:
    long = {name_of(path): lines for path in ALL_MODULES if (lines := path.read_text().count("\n")) > LONGEST}
    assert not long, f"longer than {LONGEST} lines"


def test_every_part_of_the_server_has_a_place_in_the_order() -> None:
    parts = {path.name for path in SERVER.iterdir() if (path / "__init__.py").exists()}
    assert parts == set(ALLOWED)
