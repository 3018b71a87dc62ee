"""Build the clients from their sources and from protos/, in a directory given: nothing generated is kept in the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
PROTOS = HERE.parents[1] / "protos"
FILES = ("moorage/v1/image.proto", "moorage/v1/runtime.proto", "moorage/cri/v1/api.proto")
MODULE = "example.org/moorage/clients"
PLUGINS = ("google.golang.org/protobuf/cmd/protoc-gen-go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc")
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"


def build_go(directory: Path) -> list[str]:
    """The command of the Go client: protoc's plugins, the versions that go.mod names, make its code; then it is compiled."""
    shutil.copytree(HERE / "go", directory)
    programs = directory / "bin"
    programs.mkdir()
    _run(["go", "build", "-o", f"{programs}/", *PLUGINS], directory)
    options = [f"--{plugin}_opt={option}" for plugin in ("go", "go-grpc") for option in _go_options()]
    outputs = [f"--{plugin}_out={directory}" for plugin in ("go", "go-grpc")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *outputs, *options, *FILES]
    _run(protoc, directory, PATH=f"{programs}:{os.environ['PATH']}")
    _run(["go", "vet", "."], directory)
    _run(["go", "build", "-o", "client", "."], directory)
    return [str(directory / "client")]


def _go_options() -> list[str]:
    """Our .proto files name no Go packages; what imports them does."""
    return [f"module={MODULE}", *(f"M{file}={MODULE}/gen/{Path(file).parent}" for file in FILES)]


def build_node(directory: Path) -> list[str]:
    """The command of the Node client: its packages, as package-lock.json has them; it reads the .proto files when it runs."""
    shutil.copytree(HERE / "node", directory)
    _run(["npm", "ci", "--silent"], directory)
    return ["node", str(directory / "client.js")]


def build_grpcurl(directory: Path) -> Path:
    """The directory that holds `grpcurl`."""
    directory.mkdir()
    _run(["go", "install", GRPCURL], directory, GOBIN=str(directory))
    return directory


def _run(command: Sequence[str], directory: Path, **environment: str) -> None:
    done = subprocess.run(command, cwd=directory, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
