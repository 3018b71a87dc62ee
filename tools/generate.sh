#!/bin/sh
# Regenerate the Python code of protos/ beside it.
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
bin="$(dirname "$python")"
"$python" -m grpc_tools.protoc -I protos \
  --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
  --python_out=protos --pyi_out=protos --grpc_python_out=protos --mypy_grpc_out=protos \
  $(find protos -name '*.proto' | sort)
