"""Configuration: defaults, the file, the command line, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage.server import config
from moorage.server.errors import FailedPrecondition, InvalidArgument


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "moorage.toml"
    path.write_text(text)
    return str(path)


def test_everything_has_a_default() -> None:
    made = config.load(None, {})
    assert made.root == "/var/lib/moorage"
    assert made.addresses == ("unix:///run/moorage/moorage.sock",)
    assert made.instance == "moorage"


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'root = "/a"\nstate = "/b"\nlog_level = "debug"\n')
    made = config.load(path, {"root": "/c", "state": None})
    assert (made.root, made.state, made.log_level) == ("/c", "/b", "debug")


def test_another_root_is_another_instance() -> None:
    one, two = config.load(None, {"root": "/x/one"}), config.load(None, {"root": "/x/two"})
    assert one.instance != two.instance
    assert all(made.instance.startswith("moorage") and len(made.instance) == 13 for made in (one, two))
    assert one.instance == config.load(None, {"root": "/x/../x/one"}).instance


def test_mirrors_reach_the_registry(tmp_path: Path) -> None:
    text = '[[registry.mirrors]]\nhost = "registry.example"\nendpoints = ["http://127.0.0.1:5000"]\n'
    made = config.load(write(tmp_path, text), {})
    assert made.registry.mirrors_of("registry.example") == ("http://127.0.0.1:5000",)


def test_the_cri_table(tmp_path: Path) -> None:
    assert config.load(None, {}).cri.runtime_handlers == ("moorage",)
    made = config.load(write(tmp_path, '[cri]\nstream_address = "127.0.0.1:10010"\npinned_images = ["a", "b"]\n'), {})
    assert (made.cri.stream_address, made.cri.pinned_images) == ("127.0.0.1:10010", ("a", "b"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rot = 1\n", "unknown key 'rot'"),
        ("root = 1\n", "root must be str, not int"),
        ('root = "relative"\n', "root must be an absolute path"),
        ('log_level = "loud"\n', "log_level must be one of"),
        ("[tls]\nkey = 3\n", r"\[tls\]: key must be str"),
        ("[network]\npull = 1\n", r"\[network\]: unknown key 'pull'"),
        ("network = 3\n", r"\[network\]: must be a table"),
        ("root = \n", "cannot read configuration"),
        ('listen = "unix:///x"\n', "listen must be"),
        ('[cri]\ncgroup_driver = "systemd"\n', "cgroup_driver must be cgroupfs"),
        ('[cri]\nstream_cert = "/c.pem"\n', "stream_cert and stream_key go together"),
        ("[cri]\npinned_images = [1]\n", r"\[cri\]: pinned_images must be a list of strings"),
        ("[cri]\nstream = 1\n", r"\[cri\]: unknown key 'stream'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        config.load(write(tmp_path, text), {})


def test_a_missing_file_is_told() -> None:
    with pytest.raises(FailedPrecondition, match="/nonexistent"):
        config.load("/nonexistent", {})
