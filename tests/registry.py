"""Debian's docker-registry on a loopback port, with its own directory, gone at the end.

    with LoopbackRegistry() as registry:
        push(registry.url, "team/app", "1", build_busybox())

With `tls=True` it speaks HTTPS with a certificate of a private CA (`ca_file`); with `auth=("user", "password")` it asks
for them.
"""

from __future__ import annotations

import re
import secrets
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_LISTENING = re.compile(r'msg="listening on [^ ]*:(\d+)')
_NAMES = "subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost,DNS:registry.example"


class LoopbackRegistry:
    """A process. `url` is `http(s)://127.0.0.1:port`; `host`, `127.0.0.1:port`, is the domain of references."""

    def __init__(self, *, tls: bool = False, auth: tuple[str, str] | None = None) -> None:
        self.tls, self.auth = tls, auth
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def path(self) -> Path:
        assert self._directory is not None
        return Path(self._directory.name)

    @property
    def ca_file(self) -> str | None:
        return str(self.path / "ca.pem") if self.tls else None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, on the same port and data when it ran before; answer when it listens."""
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="moorage-registry-")
            self._prepare()
        (self.path / "config.yml").write_text(self._config())
        with open(self.path / "log", "wb") as log:
            command = ["docker-registry", "serve", str(self.path / "config.yml")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.port = self._await_port()
        return self

    def kill(self) -> None:
        """SIGKILL; data and port stay for the next `start`."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _prepare(self) -> None:
        if self.tls:
            make_certificates(self.path)
        if self.auth is not None:
            user, password = self.auth
            line = subprocess.run(["htpasswd", "-Bbn", "-C", "4", user, password], check=True, capture_output=True)
            (self.path / "htpasswd").write_bytes(line.stdout)

    def _config(self) -> str:
        lines = ["version: 0.1", "log: {level: info, formatter: text}", "storage:"]
        lines += [f"  filesystem: {{rootdirectory: {self.path}/data}}", "  delete: {enabled: true}", "http:"]
        lines += [f"  addr: 127.0.0.1:{self.port}", f"  secret: {secrets.token_hex(16)}"]
        if self.tls:
            lines += [f"  tls: {{certificate: {self.path}/server.pem, key: {self.path}/server.key}}"]
        if self.auth is not None:
            lines += ["auth:", f"  htpasswd: {{realm: moorage, path: {self.path}/htpasswd}}"]
        return "\n".join(lines) + "\n"

    def _await_port(self) -> int:
        assert self._process is not None
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            if found := _LISTENING.search(self.log()):
                return int(found[1])
            time.sleep(0.02)
        log = self.log()
        self.stop()
        raise RuntimeError(f"docker-registry does not listen: {log}")

    def log(self) -> str:
        """What it wrote so far, since the last start."""
        return (self.path / "log").read_text()


def make_certificates(directory: Path) -> None:
    """A private CA (`ca.pem`) and a certificate for loopback and `registry.example` of it (`server.pem`, `server.key`)."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca = ["-subj", "/CN=moorage test CA", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"]
    _openssl(directory, "req", "-x509", *key, *ca)
    leaf = ["-subj", "/CN=moorage test registry", "-keyout", "server.key", "-out", "server.pem", "-days", "2"]
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", _NAMES, "-addext", "basicConstraints=critical,CA:FALSE"]
    _openssl(directory, "req", "-x509", *key, *leaf, *signed)


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)
