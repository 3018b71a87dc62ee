"""The images the bench runs and pulls."""

from __future__ import annotations

import io
import random
import tarfile

from tests.images import BuiltImage, build_busybox, build_image, busybox_layer, push

HOST = "registry.example"
BUSYBOX = f"{HOST}/bench/busybox:1"
PAUSE = f"{HOST}/bench/pause:1"

LAYERS = 8
FILES = 20_000
BYTES = 133 << 20


def push_all(registry_url: str) -> None:
    """Push busybox, and the pause image containerd wants."""
    push(registry_url, "bench/busybox", "1", build_busybox())
    push(registry_url, "bench/pause", "1", build_busybox(cmd=["/bin/sleep", "2147483647"]))


def push_big(registry_url: str, count: int, scale: float) -> list[str]:
    """Push `count` big images that have only the base in common, their size multiplied by `scale`; answers the references."""
    for number in range(count):
        push(registry_url, "bench/big", str(number), big(number, scale))
    return [f"{HOST}/bench/big:{number}" for number in range(count)]


def big(seed: int, scale: float = 1.0) -> BuiltImage:
    """Eight layers: 20,000 small files of 2 to 5 KiB, and large ones up to 133 MB in all; half of it compresses well."""
    source = random.Random(seed)
    small = int(FILES * scale) // LAYERS
    rest = int(BYTES * scale) // LAYERS - small * 3584
    tars = [_layer(source, number, small, rest) for number in range(LAYERS - 1)]
    return build_image([busybox_layer(), *tars], {"Cmd": ["/bin/sh"]})


def _layer(source: random.Random, number: int, small: int, rest: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for index in range(small * LAYERS // (LAYERS - 1)):
            _file(tar, f"data/{number}/{index // 200}/{index}", _content(source, source.randint(2048, 5120)))
        for index in range(4):
            _file(tar, f"data/{number}/large{index}", _content(source, max(rest, 0) * LAYERS // (LAYERS - 1) // 4))
    return buffer.getvalue()


def _content(source: random.Random, size: int) -> bytes:
    return source.randbytes(size // 2) + (b"moorage " * (size // 16 + 1))[: size - size // 2]


def _file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
