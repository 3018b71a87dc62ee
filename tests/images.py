"""Builds small images in memory and pushes them to a registry: what tests, demo and bench run their containers from.

    image = build_busybox()                                    # one layer, OCI, gzip
    push("http://127.0.0.1:5000", "team/busybox", "1", image)

An `Index` is pushed the same way, with the images it lists.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urljoin

import urllib3
import zstandard

Format = Literal["oci", "docker"]
Compression = Literal["gzip", "zstd", "none"]

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

_LAYER_TYPES: dict[tuple[Format, Compression], str] = {
    ("oci", "gzip"): "application/vnd.oci.image.layer.v1.tar+gzip",
    ("oci", "zstd"): "application/vnd.oci.image.layer.v1.tar+zstd",
    ("oci", "none"): "application/vnd.oci.image.layer.v1.tar",
    ("docker", "gzip"): "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ("docker", "zstd"): "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ("docker", "none"): "application/vnd.docker.image.rootfs.diff.tar",
}
_MTIME = 1_700_000_000
_CREATED = "2023-11-14T22:13:20Z"


@dataclass(frozen=True)
class Blob:
    """Bytes in a registry."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.data).hexdigest()

    def descriptor(self) -> dict[str, object]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


@dataclass(frozen=True)
class BuiltImage:
    """A manifest and what it points to. `diff_ids` are the digests of the plain tars."""

    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]
    diff_ids: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.config.digest


@dataclass(frozen=True)
class Index:
    """An index (or manifest list) and the images it lists."""

    manifest: Blob
    images: tuple[BuiltImage, ...]


def build_busybox(
    *,
    cmd: Sequence[str] = ("/bin/sh",),
    entrypoint: Sequence[str] = (),
    env: Sequence[str] = ("PATH=/bin",),
    config: Mapping[str, object] | None = None,
    extra_layers: Sequence[bytes] = (),
    format: Format = "oci",
    compression: Compression | Sequence[Compression] = "gzip",
    architecture: str = "amd64",
    variant: str = "",
) -> BuiltImage:
    """An image with a static busybox and links for its applets, /etc/passwd and the usual directories.

    `config` adds to or replaces keys of the config's "config" (`User`, `WorkingDir`, `ExposedPorts`, …); `extra_layers`
    are plain tars (see `tar_layer`) on top; `compression` is one for all layers or one each.
    """
    run = {"Cmd": list(cmd), "Entrypoint": list(entrypoint), "Env": list(env), "WorkingDir": "/", **(config or {})}
    tars = (busybox_layer(), *extra_layers)
    return build_image(tars, run, format=format, compression=compression, architecture=architecture, variant=variant)


def build_image(
    tars: Sequence[bytes],
    config: Mapping[str, object] | None = None,
    *,
    format: Format = "oci",
    compression: Compression | Sequence[Compression] = "gzip",
    architecture: str = "amd64",
    variant: str = "",
) -> BuiltImage:
    """An image of the given plain tars, base first."""
    each = [compression] * len(tars) if isinstance(compression, str) else list(compression)
    layers = tuple(Blob(_LAYER_TYPES[format, how], compress(tar, how)) for tar, how in zip(tars, each, strict=True))
    diff_ids = tuple("sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars)
    document: dict[str, object] = {
        "created": _CREATED,
        "architecture": architecture,
        "os": "linux",
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [{"created": _CREATED, "created_by": f"layer {i}"} for i in range(len(tars))],
    }
    if variant:
        document["variant"] = variant
    config_blob = Blob(OCI_CONFIG if format == "oci" else DOCKER_CONFIG, _json(document))
    media_type = OCI_MANIFEST if format == "oci" else DOCKER_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config_blob.descriptor(),
        "layers": [layer.descriptor() for layer in layers],
    }
    return BuiltImage(Blob(media_type, _json(manifest)), config_blob, layers, diff_ids)


def build_index(*images: BuiltImage, format: Format = "oci") -> Index:
    """An index whose platforms are taken from the images' configs."""
    media_type = OCI_INDEX if format == "oci" else DOCKER_LIST
    entries = [{**image.manifest.descriptor(), "platform": _platform(image)} for image in images]
    manifest = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
    return Index(Blob(media_type, _json(manifest)), images)


def tar_layer(files: Mapping[str, bytes | None], *, mode: int = 0o644) -> bytes:
    """A plain tar of regular files; a value of None makes a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            _add(tar, name, data, mode)
    return buffer.getvalue()


@cache
def busybox_layer() -> bytes:
    """The plain tar of the busybox layer."""
    program = Path("/bin/busybox")
    listed = subprocess.run([program, "--list"], check=True, capture_output=True, text=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory in ("bin", "dev", "etc", "home", "proc", "root", "sys", "var", "var/log", "www"):
            _add(tar, directory, None, 0o755)
        _add(tar, "tmp", None, 0o1777)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/sh\n", 0o644)
        _add(tar, "etc/group", b"root:x:0:\nnobody:x:65534:\n", 0o644)
        _add(tar, "bin/busybox", program.read_bytes(), 0o755)
        for applet in sorted(set(listed.stdout.split()) - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname, link.mtime = tarfile.SYMTYPE, "busybox", _MTIME
            tar.addfile(link)
    return buffer.getvalue()


def compress(tar: bytes, how: Compression) -> bytes:
    match how:
        case "gzip":
            return gzip.compress(tar, compresslevel=6, mtime=0)
        case "zstd":
            return zstandard.ZstdCompressor(level=3).compress(tar)
        case "none":
            return tar


def push(
    registry_url: str,
    repository: str,
    tag: str,
    image: BuiltImage | Index,
    *,
    auth: tuple[str, str] | None = None,
    ca_file: str | None = None,
) -> str:
    """Push over the distribution API and tag it; answer the manifest's digest. `auth` is (user, password) for Basic."""
    headers = urllib3.make_headers(basic_auth=":".join(auth)) if auth else urllib3.make_headers()
    with urllib3.PoolManager(headers=headers, ca_certs=ca_file, retries=False) as http:
        base = f"{registry_url.rstrip('/')}/v2/{repository}"
        for member in image.images if isinstance(image, Index) else (image,):
            for blob in (member.config, *member.layers):
                _push_blob(http, base, blob)
            _put_manifest(http, base, member.manifest.digest, member.manifest)
        _put_manifest(http, base, tag, image.manifest)
    return image.manifest.digest


def _push_blob(http: urllib3.PoolManager, base: str, blob: Blob) -> None:
    if http.request("HEAD", f"{base}/blobs/{blob.digest}").status == 200:
        return
    begun = _expect(202, http.request("POST", f"{base}/blobs/uploads/"))
    location = urljoin(base, begun.headers["Location"])
    target = f"{location}{'&' if '?' in location else '?'}digest={blob.digest}"
    headers = {**http.headers, "Content-Type": "application/octet-stream"}
    _expect(201, http.request("PUT", target, body=blob.data, headers=headers))


def _put_manifest(http: urllib3.PoolManager, base: str, target: str, manifest: Blob) -> None:
    headers = {**http.headers, "Content-Type": manifest.media_type}
    _expect(201, http.request("PUT", f"{base}/manifests/{target}", body=manifest.data, headers=headers))


def _expect(status: int, response: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
    if response.status != status:
        raise RuntimeError(f"push: {response.status} instead of {status}: {response.data[:500]!r}")
    return response


def _platform(image: BuiltImage) -> dict[str, str]:
    config = json.loads(image.config.data)
    return {key: config[key] for key in ("os", "architecture", "variant") if key in config}


def _add(tar: tarfile.TarFile, name: str, data: bytes | None, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = mode, _MTIME
    if data is None:
        info.type = tarfile.DIRTYPE
        info.mode |= 0o111
        tar.addfile(info)
    else:
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def _json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
