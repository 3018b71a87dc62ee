"""SIGKILL of the daemon at random moments of builds and commits: the store is whole, the host clean, and the same then succeeds."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.aftermath import fsck, nothing_on_host, whole
from tests.archives import Archive
from tests.building import BASE, Project
from tests.criclient import until
from tests.daemon import Daemon
from tests.registry import LoopbackRegistry

pytestmark = [pytest.mark.kernel, pytest.mark.soak]

log = logging.getLogger(__name__)

MOMENTS = 50
COMMITS = 15
SEED = 20261126
NOISE = "head -c 20000000 /dev/urandom >/noise"
DOCKERFILE = """FROM BASE AS tools
ARG ROUND
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch echo $ROUND >>/cache/log; echo $ROUND >/tool
FROM BASE
COPY tree /tree/
ADD archive.tar /unpacked/
COPY --from=tools /tool /tool
COPY --link --from=tools /tool /linked/
RUN <<END
#!/bin/sh
dd if=/dev/zero of=/zeros bs=64k count=64
END
RUN --mount=type=bind,source=tree,target=/src,rw --mount=type=secret,id=key cp /src/0 /run/secrets/key /tree/
WORKDIR /new/place
CMD cat /tool /tree/key
"""


@pytest.fixture
def daemon(registry: LoopbackRegistry) -> Iterator[Daemon]:
    with Daemon.temporary({"registry.example": registry.url}) as daemon:
        daemon.warm_up(BASE)
        yield daemon


def killed_during(daemon: Daemon, verb: str, moment: float, *command: str) -> None:
    """Start a command, kill the daemon `moment` seconds after its job has begun, and start the daemon again."""
    began = len(jobs(daemon, "+job", verb))
    with daemon.popen(*command) as client:
        until(lambda: len(jobs(daemon, "+job", verb)) > began)
        time.sleep(moment)
        daemon.kill()
        client.communicate(timeout=60)
    daemon.start()


def jobs(daemon: Daemon, mark: str, verb: str) -> list[str]:
    """What the daemon's log tells of the jobs of a verb that have begun (`+job`) or ended (`-job`)."""
    return [
        line for line in daemon.log.read_text().splitlines() if f" msg={mark} " in line and f" verb={verb} " in line
    ]


def seconds_of_last(daemon: Daemon, verb: str) -> float:
    return float(jobs(daemon, "-job", verb)[-1].partition(" ms=")[2].split()[0]) / 1000


class Rounds:
    """A project that is another one each round, so that nothing of it is cached."""

    def __init__(self, daemon: Daemon, directory: Path, chance: random.Random) -> None:
        self.project = Project(daemon, directory)
        self.project.write({"secret": "s3cret", "Dockerfile": DOCKERFILE.replace("BASE", BASE)})
        self.options: tuple[str, ...] = ()
        self._chance = chance

    def next(self, number: int) -> None:
        self.project.write({f"tree/{name}": self._chance.randbytes(200_000) for name in range(8)})
        self.project.write({"archive.tar": Archive().add("packed", data=self._chance.randbytes(1 << 20)).bytes})
        secret = f"id=key,src={self.project.directory / 'secret'}"
        self.options = ("--secret", secret, "--build-arg", f"ROUND={number}")

    def build(self, number: int) -> None:
        """Build and look at what was made."""
        self.project.build("", *self.options)
        assert self.project.run() == f"{number}\ns3cret"
        sizes = self.project.run("wc", "-c", "/zeros", "/tree/7", "/unpacked/packed")
        assert sizes.splitlines()[-1].split()[0] == str((4 << 20) + 200_000 + (1 << 20))


@pytest.mark.timeout(2400)
def test_a_daemon_killed_at_fifty_moments_of_builds(daemon: Daemon, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    rounds = Rounds(daemon, tmp_path, chance)
    rounds.next(0)
    rounds.build(0)
    longest = seconds_of_last(daemon, "build")
    for number in range(1, MOMENTS + 1):
        rounds.next(number)
        moment = chance.uniform(0, longest)
        log.info("seed %d, round %d: killed after %.3f of %.3f s", SEED, number, moment, longest)
        killed_during(daemon, "build", moment, "build", "-q", "-t", "app:1", *rounds.options, str(tmp_path))
        whole(daemon)
        nothing_on_host(daemon)
        rounds.build(number)
    daemon.cli("rmi", "app:1")
    daemon.cli("builder", "prune", "--all")
    daemon.cli("image", "prune", "-f")
    assert fsck(daemon)[1] == []


def not_frozen(daemon: Daemon) -> None:
    before = daemon.out("exec", "box", "cat", "/now")
    until(lambda: daemon.out("exec", "box", "cat", "/now") != before)


@pytest.mark.timeout(2400)
def test_a_daemon_killed_at_moments_of_commits(daemon: Daemon) -> None:
    chance = random.Random(SEED)
    daemon.cli("run", "-d", "--name", "box", BASE, "sh", "-c", "while :; do date +%s%N >/now; sleep 0.05; done")
    box = daemon.inspect("box")["id"]
    daemon.cli("exec", "box", "sh", "-c", NOISE)
    daemon.cli("commit", "box", "kept:1")
    longest = seconds_of_last(daemon, "commit")
    for number in range(COMMITS):
        daemon.cli("exec", "box", "sh", "-c", f"{NOISE}; echo {number} >/round")
        moment = chance.uniform(0, longest)
        log.info("seed %d, round %d: killed after %.3f of %.3f s", SEED, number, moment, longest)
        killed_during(daemon, "commit", moment, "commit", "box", "kept:1")
        whole(daemon)
        nothing_on_host(daemon, box)
        not_frozen(daemon)
        daemon.cli("commit", "box", "kept:1")
        assert daemon.out("run", "--rm", "kept:1", "cat", "/round") == str(number)
    daemon.cli("rm", "-f", "box")
    daemon.cli("rmi", "kept:1")
    daemon.cli("image", "prune", "-f")
    assert fsck(daemon)[1] == []
