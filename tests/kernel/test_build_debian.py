"""From debootstrap to an answer over HTTP: a Debian image, a Dockerfile that uses package managers, a registry with TLS and password."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.registry import LoopbackRegistry

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(1500)]

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "debian"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@pytest.fixture
def registry() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry(tls=True, auth=("me", "s3cret")) as registry:
        yield registry


@pytest.fixture
def daemon(registry: LoopbackRegistry) -> Iterator[Daemon]:
    settings = f'[[registry.hosts]]\nhost = "{registry.host}"\nca_file = "{registry.ca_file}"\n'
    with Daemon.temporary(settings=settings) as daemon:
        yield daemon


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The tar of a Debian root file system."""
    if shutil.which("debootstrap") is None:
        pytest.skip("needs debootstrap")
    made, tar = tmp_path / "rootfs", tmp_path / "rootfs.tar"
    done = subprocess.run(["debootstrap", "--variant=minbase", "bookworm", made], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs Debian's packages: {done.stdout[-300:]}")
    subprocess.run(["tar", "-C", made, "--numeric-owner", "-cf", tar, "."], check=True)
    shutil.rmtree(made)
    return tar


def apt_settings(path: Path) -> Path:
    """What apt is told on this host about how far to believe the clock."""
    shown = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True).stdout
    path.write_text("\n".join(line for line in shown.splitlines() if "::Check-" in line) + "\n")
    return path


def answer(url: str) -> str:
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                text: str = response.read().decode()
                return text
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_a_python_application_behind_nginx(
    daemon: Daemon, registry: LoopbackRegistry, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    name = f"{registry.host}/team/app:1"
    daemon.cli("import", str(base), "debian:bookworm", timeout=300)
    secrets = ["--secret", f"id=apt,src={apt_settings(tmp_path / 'apt')}"]
    secrets += ["--secret", f"id=ca,src={CERTIFICATES}"] if CERTIFICATES.exists() else []
    build = ("build", "--progress", "plain", "-t", name, *secrets, str(EXAMPLE))
    daemon.cli(*build, timeout=1000)
    assert daemon.cli(*build, timeout=100).stderr.count(" CACHED") == 8
    daemon.cli("login", registry.host, "-u", "me", "--password-stdin", stdin="s3cret\n")
    daemon.cli("push", name, timeout=300)
    image = daemon.inspect(name)
    daemon.cli("rmi", name)
    daemon.cli("builder", "prune", "-a")
    daemon.cli("pull", name, timeout=300)
    assert daemon.inspect(name)["id"] == image["id"]
    daemon.cli("run", "-d", "--name", "app", "-p", "127.0.0.1::80", name)
    assert answer(f"http://{daemon.out('port', 'app', '80')}/") == "hello from Python behind nginx\n"
    assert os.path.basename(daemon.out("exec", "app", "readlink", "/proc/1/exe")) == "nginx"
