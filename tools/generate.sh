#!/bin/sh
# Generate the Python code of every .proto file beside it, or below OUT in the same folders.
# Usage: tools/generate.sh [OUT]
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
bin="$(dirname "$python")"
out="${1:-.}"

# Python's import paths follow the proto paths below protos/.
mkdir -p "$out/protos"
# shellcheck disable=SC2046
"$python" -m grpc_tools.protoc -I protos \
    --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
    --python_out="$out/protos" --pyi_out="$out/protos" --grpc_python_out="$out/protos" --mypy_grpc_out="$out/protos" \
    $(find protos -name '*.proto' | sort)
