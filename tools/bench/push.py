"""Measure `moorage push` beside `skopeo copy`: `python -m tools.bench.push [--times N] [--scale X]`.

Command to command, of the bench's big image (see `images.py`) to an empty registry on loopback each time, the two in turn: with the blobs
on the disk (skopeo's in an OCI layout, ours kept after the pull), and with the blobs in another registry (ours dropped after the pull).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.registry import LoopbackRegistry
from tools.bench import images
from tools.bench.ours import Mooraged

KEPT, DROPPED = "blobs on the disk", "blobs in another registry"


def skopeo(source: str, target: str) -> None:
    """`skopeo copy`, over plain HTTP, with its temporary files in a directory of ours."""
    with TemporaryDirectory(prefix="moorage-skopeo-") as directory:
        plain = ["--src-tls-verify=false", "--dest-tls-verify=false", "--tmpdir", directory]
        subprocess.run(["skopeo", "copy", "-q", "--insecure-policy", *plain, source, target], check=True)


def ours(server: Mooraged, image: str, host: str) -> None:
    """`moorage push`."""
    server.daemon.cli("push", "-q", image, f"{host}/big:1")


def timed(push: Callable[[str], None]) -> float:
    """Seconds of a push to an empty registry; `push` is told its host."""
    with LoopbackRegistry() as target:
        begun = time.perf_counter()
        push(target.host)
        return time.perf_counter() - begun


def measure(origin: LoopbackRegistry, image: str, directory: Path, *, kept: bool, times: int) -> dict[str, list[float]]:
    """Seconds of each push, by who pushed."""
    directory.mkdir()
    source = f"docker://{origin.host}/{image.partition('/')[2]}"
    if kept:
        skopeo(source, f"oci:{directory}/layout:1")
        source = f"oci:{directory}/layout:1"
    settings = f"[registry]\nkeep_blobs = {str(kept).lower()}\n"
    found: dict[str, list[float]] = {"moorage": [], "skopeo": []}
    with Mooraged.running(directory, {images.HOST: origin.url}, settings) as server:
        server.daemon.cli("pull", image)
        for _ in range(times):
            found["moorage"].append(timed(lambda host: ours(server, image, host)))
            found["skopeo"].append(timed(lambda host: skopeo(source, f"docker://{host}/big:1")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.bench.push", description="Measure moorage push beside skopeo copy.")
    parser.add_argument("--times", type=int, default=7, help="pushes of each kind")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the image")
    options = parser.parse_args()
    print("|  | moorage | skopeo | ratio |\n| --- | ---: | ---: | ---: |")
    with LoopbackRegistry() as origin, TemporaryDirectory(prefix="moorage-bench-") as directory:
        (image,) = images.push_big(origin.url, 1, options.scale)
        for title, kept in ((KEPT, True), (DROPPED, False)):
            found = measure(origin, image, Path(directory, str(kept)), kept=kept, times=options.times)
            mine, theirs = (statistics.median(found[name]) for name in ("moorage", "skopeo"))
            print(f"| {title} | {mine:.2f} s | {theirs:.2f} s | {mine / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
