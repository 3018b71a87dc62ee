"""The files that make the daemon a service and a kubelet's runtime: they are well-formed, and name what exists."""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from moorage.server import config, main
from moorage.server.api import listen
from tests.daemon import PROGRAMS

PACKAGING = Path(__file__).resolve().parents[2] / "tools/packaging"
INSTALLED = {
    "etc/systemd/system/mooraged.service",
    "etc/systemd/system/mooraged.socket",
    "etc/sysusers.d/moorage.conf",
    "etc/tmpfiles.d/moorage.conf",
    "etc/kubernetes/kubelet.conf.d/50-moorage.conf",
    "etc/moorage/moorage.toml",
    "etc/crictl.yaml",
}
PLUGINS = Path("/usr/lib/cni")


def unit(name: str) -> configparser.ConfigParser:
    """A unit file; a key given twice keeps the last value, and none of ours is."""
    parser = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((PACKAGING / name).read_text())
    return parser


def flat_yaml(name: str) -> dict[str, str]:
    """The keys of a YAML file that has no nested ones. Anything else is a failure."""
    lines = [line for line in (PACKAGING / name).read_text().splitlines() if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"([A-Za-z0-9-]+): (\S+)", line) for line in lines]
    found = {pair[1]: pair[2] for pair in pairs if pair}
    assert len(found) == len(lines), f"{name}: not all lines are `key: value`, each key once"
    return found


@pytest.fixture
def arguments() -> argparse.Namespace:
    """The service's command line, as the daemon reads it: an unknown flag would exit."""
    program, *rest = shlex.split(unit("mooraged.service")["Service"]["ExecStart"])
    assert program == "/usr/local/bin/mooraged"
    return main._arguments(rest)


def test_the_daemon_takes_the_command_line_of_the_service(arguments: argparse.Namespace) -> None:
    assert [listen.parse(url).kind for url in arguments.listen] == ["fd", "unix"]
    assert arguments.config == "/etc/moorage/moorage.toml"


def test_the_service_lets_containers_outlive_the_daemon() -> None:
    service = unit("mooraged.service")["Service"]
    wanted = {"Type": "notify", "KillMode": "process", "Delegate": "yes", "Restart": "always", "TasksMax": "infinity"}
    assert {key: service[key] for key in wanted} == wanted
    # A private view of the mounts would hide a kubelet's volumes from containers.
    assert not [key for key in service if key.startswith(("Protect", "Private", "ReadOnly", "RuntimeDirectory"))]
    assert int(service["TimeoutStopSec"]) > config.Config().shutdown_seconds


def test_kubelet_and_crictl_find_the_sockets_that_the_service_opens(arguments: argparse.Namespace) -> None:
    kubelet, crictl = flat_yaml("kubelet.conf"), flat_yaml("crictl.yaml")
    assert {kubelet["containerRuntimeEndpoint"], crictl["runtime-endpoint"], crictl["image-endpoint"]} == {
        arguments.listen[1]
    }
    assert f"unix://{unit('mooraged.socket')['Socket']['ListenStream']}" == config.Config().addresses[0]
    assert kubelet["cgroupDriver"] == config.Config().cri.cgroup_driver
    assert kubelet["failCgroupV1"] == "false" and kubelet["kind"] == "KubeletConfiguration"


def test_the_socket_is_of_the_group_that_is_made() -> None:
    made = [line.split() for line in (PACKAGING / "sysusers.conf").read_text().splitlines() if line.startswith("g ")]
    assert made == [["g", unit("mooraged.socket")["Socket"]["SocketGroup"], "-"]]
    assert made[0][1] == listen.GROUP


def test_the_directories_are_those_of_the_defaults() -> None:
    lines = [line.split() for line in (PACKAGING / "tmpfiles.conf").read_text().splitlines() if line.startswith("d ")]
    assert {path for _, path, *_ in lines} >= {config.Config().root, config.Config().state, "/etc/moorage"}
    assert all(age == "-" for *_, age in lines), "systemd would clean up what supervisors need"


def test_the_configuration_is_the_default() -> None:
    assert config.load(str(PACKAGING / "moorage.toml"), {}) == config.Config()


def test_the_configuration_is_an_example_too(tmp_path: Path) -> None:
    """What is commented out works."""
    text = (PACKAGING / "moorage.toml").read_text()
    path = tmp_path / "moorage.toml"
    path.write_text(re.sub(r"^# (\[\[|\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert [mirror.host for mirror in config.load(str(path), {}).registry.mirrors] == ["registry.example"]


def test_the_documented_configuration_is_read_and_whole(tmp_path: Path) -> None:
    text = (PACKAGING.parents[1] / "docs/configuration.md").read_text()
    path = tmp_path / "moorage.toml"
    path.write_text(text.partition("```toml\n")[2].partition("```")[0])
    config.load(str(path), {})
    documented = tomllib.loads(path.read_text())
    assert {each.name for each in fields(config.Config)} == set(documented)
    for section in (config.Cri, config.Tls, config.NetworkConfig):
        assert {each.name for each in fields(section)} in [
            set(value) for value in documented.values() if type(value) is dict
        ]


def test_installation_puts_all_in_place_and_keeps_configuration(tmp_path: Path) -> None:
    subprocess.run([PACKAGING / "install.sh", tmp_path], check=True)
    installed = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert installed == INSTALLED
    kept = tmp_path / "etc/moorage/moorage.toml"
    kept.write_text("# mine\n")
    (tmp_path / "etc/systemd/system/mooraged.service").unlink()
    subprocess.run([PACKAGING / "install.sh", tmp_path], check=True)
    assert kept.read_text() == "# mine\n" and (tmp_path / "etc/systemd/system/mooraged.service").exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for name in ("mooraged.service", "mooraged.socket"):
        text = (PACKAGING / name).read_text().replace("/usr/local/bin/mooraged", str(PROGRAMS / "mooraged"))
        (tmp_path / name).write_text(text)
    units = [tmp_path / "mooraged.service", tmp_path / "mooraged.socket"]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    # It also speaks of the host's own units.
    said = [line for line in done.stderr.splitlines() if "moorage" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.skipif(not PLUGINS.is_dir(), reason="containernetworking-plugins is not installed")
def test_cni_plugins_take_the_version_of_the_list() -> None:
    listed = json.loads((PACKAGING / "10-moorage.conflist").read_text())
    for plugin in listed["plugins"]:
        done = subprocess.run(
            [PLUGINS / plugin["type"]],
            input=json.dumps({"cniVersion": listed["cniVersion"]}),
            env={"CNI_COMMAND": "VERSION"},
            capture_output=True,
            text=True,
        )
        assert listed["cniVersion"] in json.loads(done.stdout)["supportedVersions"]
