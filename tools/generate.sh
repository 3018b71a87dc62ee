#!/bin/sh
# Generate the Python code of every .proto file beside it, or below OUT in the same folders.
# Usage: tools/generate.sh [OUT]
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
bin="$(dirname "$python")"
out="${1:-.}"

# Python's import paths follow the proto paths, so each root is compiled with the root its imports start at.
generate() {
    root="$1" below="$2"
    mkdir -p "$out/$below"
    # shellcheck disable=SC2046
    "$python" -m grpc_tools.protoc -I "$root" \
        --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
        --python_out="$out/$below" --pyi_out="$out/$below" --grpc_python_out="$out/$below" --mypy_grpc_out="$out/$below" \
        $(find "$3" -name '*.proto' | sort)
}

generate protos protos protos
generate . . tools/bench
