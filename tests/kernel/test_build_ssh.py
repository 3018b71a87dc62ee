"""RUN --mount=type=ssh: a real ssh-agent of the client's, asked by a real ssh-add in a step."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.building import Project, daemon, project

__all__ = ["daemon", "project"]

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


class Agent:
    """An ssh-agent with one key; `listed` is what `ssh-add -l` says of it here."""

    def __init__(self, directory: Path) -> None:
        self.socket, self.key = directory / "agent", directory / "key"
        command = ["ssh-agent", "-D", "-a", str(self.socket)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        self._process.stdout.readline()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "moorage", "-f", self.key], check=True)
        self.add("-q", str(self.key))
        self.listed = self.add("-l")

    def add(self, *arguments: str) -> str:
        environment = {**os.environ, "SSH_AUTH_SOCK": str(self.socket)}
        return subprocess.run(
            ["ssh-add", *arguments], env=environment, check=True, capture_output=True, text=True
        ).stdout

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = Agent(tmp_path_factory.mktemp("agent"))
    yield agent
    agent.close()


@pytest.fixture
def tools(project: Project) -> Project:
    """A project whose context has the programs of OpenSSH, with the libraries that they are linked to."""
    for program in ("/usr/bin/ssh-add", "/usr/bin/ssh-keygen"):
        linked = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
        for path in (program, *re.findall(r"(/\S+) \(", linked)):
            copy = project.directory / "tools" / path.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(Path(path).read_bytes())
            copy.chmod(0o755)
    return project


def test_a_step_lists_and_signs_with_the_keys_of_an_agent(tools: Project, agent: Agent) -> None:
    tools.write({"key.pub": agent.key.with_suffix(".pub").read_bytes()})
    built = tools.build(
        """FROM BASE
ENV PATH=/usr/bin:/bin
COPY tools /
COPY key.pub /key.pub
RUN --mount=type=ssh ssh-add -l; stat -c '%a %u' $SSH_AUTH_SOCK
RUN --mount=type=ssh,required=true echo text >/text && ssh-keygen -q -Y sign -f /key.pub -n file /text && cat /text.sig
RUN --mount=type=ssh ssh-add -D; ssh-add -l
RUN ssh-add -l; ls -d /run/moorage || true
""",
        "--ssh",
        f"default={agent.socket}",
    )
    assert built.output.startswith(f"{agent.listed}600 0\n")
    assert "BEGIN SSH SIGNATURE" in built.output
    # To remove the keys is not a step's to do.
    assert built.output.count(agent.listed) == 2
    assert "Failed to remove all identities" in built.output
    assert "Could not open a connection to your authentication agent" in built.output
    assert agent.add("-l") == agent.listed


def test_an_agent_is_in_no_layer_and_no_cache_key(tools: Project, agent: Agent) -> None:
    dockerfile = """FROM BASE
RUN --mount=type=ssh,id=work,target=/tmp/a.sock,mode=0666,uid=7 echo $SSH_AUTH_SOCK $(stat -c '%a %u' /tmp/a.sock) >/seen
"""
    first = tools.build(dockerfile, "--ssh", f"work={agent.socket}")
    assert tools.run("cat", "/seen") == "/tmp/a.sock 666 7"
    assert tools.run("sh", "-c", "ls -A / /tmp; echo $SSH_AUTH_SOCK").endswith("www\n\n/tmp:")
    again = tools.build()
    assert again.image["id"] == first.image["id"]
    assert list(again.steps.values())[1:-1] == ["cached"]
    assert list((tools.daemon.state / "build").iterdir()) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("RUN --mount=type=ssh,required=true true", "Dockerfile:2: RUN --mount=type=ssh,id=default: no such agent"),
        ("RUN --mount=type=ssh,id=x,required true", "Dockerfile:2: RUN --mount=type=ssh,id=x: no such agent"),
    ],
)
def test_an_agent_that_is_required(project: Project, lines: str, message: str) -> None:
    built = project.build(f"FROM BASE\n{lines}\n", check=False)
    assert message in built.error


def test_a_client_that_does_not_forward_what_is_asked_for_hears_of_it(project: Project, tmp_path: Path) -> None:
    key = tmp_path / "id_rsa"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    built = project.build("FROM BASE\n", "--ssh", f"default={key}", check=False)
    assert "key files are not read: give the key to an ssh-agent" in built.error
