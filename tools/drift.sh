#!/bin/sh
# Fail when the committed generated code is not what tools/generate.sh makes of the .proto files.
set -eu
cd "$(dirname "$0")/.."
fresh="$(mktemp -d "${TMPDIR:-/tmp}/moorage-drift-XXXXXX")"
trap 'rm -rf "$fresh"' EXIT
tools/generate.sh "$fresh"
status=0
generated="$(cd "$fresh/protos" && find . -name '*_pb2*' | sort)"
committed="$(cd protos && find . -name '*_pb2*.py*' ! -path '*/__pycache__/*' | sort)"
[ "$generated" = "$committed" ] || { echo "drift: protos holds other generated files than its .proto files make" >&2; status=1; }
for file in $generated; do
    diff -u "protos/$file" "$fresh/protos/$file" || status=1
done
[ $status -eq 0 ] || echo "drift: run 'make generate' and commit what it changes" >&2
exit $status
