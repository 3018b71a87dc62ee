"""Pods of a RuntimeClass whose handler is an OCI runtime."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grpc import StatusCode

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import Box, Cri, Pod, refused, until
from tests.daemon import Daemon
from tests.kernel.conftest import IMAGE
from tests.registry import LoopbackRegistry
from tests.streamclient import SpdyClient

pytestmark = pytest.mark.kernel

V4 = "v4.channel.k8s.io"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runc that may be taken away."""
    path = shutil.which("runc")
    if path is None:
        pytest.skip("needs runc")
    return Path(shutil.copy(path, tmp_path_factory.mktemp("runtimes") / "copy"))


@contextmanager
def harbour(registry: LoopbackRegistry, copy: Path) -> Iterator[Daemon]:
    """A daemon with the handlers `runc`, `copy` and `mute`, which has all that the first container of each kind makes."""
    mute = copy.with_name("mute")
    mute.write_text(f'#!/bin/sh\n[ "$1" != features ] && exec {copy} "$@"\n')
    mute.chmod(0o755)
    paths = {"runc": shutil.which("runc"), "copy": copy, "mute": mute}
    settings = "".join(f'[runtimes.{name}]\npath = "{path}"\n' for name, path in paths.items())
    with Daemon.temporary({"registry.example": registry.url}, settings=settings) as daemon:
        daemon.warm_up(IMAGE)
        daemon.cli("run", "--rm", "--runtime", "runc", IMAGE, "true")
        yield daemon


@pytest.fixture(scope="module")
def house(registry: LoopbackRegistry, copy: Path) -> Iterator[Daemon]:
    with harbour(registry, copy) as daemon:
        yield daemon


@pytest.fixture
def own_house(registry: LoopbackRegistry, copy: Path) -> Iterator[Daemon]:
    """One to kill."""
    with harbour(registry, copy) as daemon:
        yield daemon


@pytest.fixture
def cri(house: Daemon, tmp_path: Path) -> Iterator[Cri]:
    cri = Cri(house.url, IMAGE, tmp_path)
    yield cri
    cri.clear()
    cri.close()
    until(lambda: not os.listdir(house.state / "pods"))


def test_the_handlers_are_told_with_what_they_can(cri: Cri) -> None:
    status = cri.runtime.Status(api.StatusRequest(verbose=True))
    features = {handler.name: handler.features for handler in status.runtime_handlers}
    assert set(features) == {"", "moorage", "runc", "copy", "mute"}
    assert features["runc"].recursive_read_only_mounts == features[""].recursive_read_only_mounts
    assert features["runc"].user_namespaces == features[""].user_namespaces
    assert not features["mute"].user_namespaces
    assert "runc version" in status.info["config"]


def test_a_pod_with_a_handler(cri: Cri) -> None:
    pod = cri.pod(handler="runc", hostname="handled")
    assert pod.status().runtime_handler == "runc"
    box = pod.run("sh", "-c", "hostname; echo err >&2; exec sleep 1000", linux={"run_as_username": "nobody"})
    until(lambda: len(box.log()) == 2)
    assert sorted(box.log()) == [("stderr", "F", "err"), ("stdout", "F", "handled")]
    # The pod's own process 1 is there, which containers of all its handlers share.
    assert box.sh("id -u; ps -o comm | grep -c sleep").split() == ["65534", "1"]
    assert box.exec("sh", "-c", "exit 4").exit_code == 4
    with refused(StatusCode.DEADLINE_EXCEEDED):
        box.exec("sleep", "1000", timeout=1)
    assert box.sh("ps -o comm | grep -c sleep") == "1\n"
    box.stop()
    ended = box.ended()
    assert (ended.exit_code, ended.reason) == (137, "Error")
    box.remove()
    with refused(StatusCode.NOT_FOUND):
        box.status()


async def test_attach_with_a_terminal(cri: Cri) -> None:
    box = cri.pod(handler="runc").run("sh", "-c", "while read x; do stty size; done", stdin=True, tty=True)
    request = api.AttachRequest(container_id=box.id, stdin=True, stdout=True, tty=True)
    client = await SpdyClient.connect(cri.runtime.Attach(request).url, V4)
    _error, stdin, out, resize = await client.open_all("error", "stdin", "stdout", "resize")
    client.send(client.framer.data(resize, b'{"Width":123,"Height":45}\n'))

    def sized() -> bool:
        # The size and the line go by different ways, so that the first answer may be of the size before.
        client.send(client.framer.data(stdin, b"go\n"))
        return b"45 123\r\n" in client.streams[out].data

    await client.until(sized)
    await client.close()


def mapped(pid: api.NamespaceMode = api.CONTAINER) -> api.LinuxPodSandboxConfig:
    """Of a pod with a user namespace."""
    mapping = [api.IDMapping(host_id=100_000, container_id=0, length=65536)]
    users = api.UserNamespace(mode=api.POD, uids=mapping, gids=mapping)
    options = api.NamespaceOption(pid=pid, userns_options=users)
    return api.LinuxPodSandboxConfig(security_context=api.LinuxSandboxSecurityContext(namespace_options=options))


def test_a_user_namespace(cri: Cri, tmp_path: Path) -> None:
    """What of it runs through every runtime: tests/cri/test_namespaces.py, with MOORAGE_HANDLER."""
    pod = cri.pod(handler="copy", linux=mapped())
    (tmp_path / "mounted").mkdir()
    mount = api.Mount(container_path="/mounted", host_path=str(tmp_path / "mounted"), readonly=True)
    script = "echo again >/dev/stdout; exec sleep 1000"
    box = pod.run("sh", "-c", script, mounts=[mount], linux={"run_as_user": api.Int64Value(value=1000)})
    until(box.log)
    assert box.log() == [("stdout", "F", "again")]
    assert box.sh("id -u; cat /proc/self/uid_map; stat -c %u /bin/busybox").split() == [
        *("1000", "0", "100000", "65536", "0"),
    ]
    assert "read-only" in box.exec("touch", "/mounted/file").stderr.decode().lower()
    assert (tmp_path / "mounted").stat().st_uid == 0
    # It joins the namespaces of one that was made inside the user namespace.
    target = {"namespace_options": api.NamespaceOption(pid=api.TARGET, target_id=box.id)}
    assert "sleep" in pod.sh("cat /proc/1/comm", linux=target)


def test_a_command_that_is_not_there_is_a_start_error(cri: Cri) -> None:
    box = cri.pod(handler="runc").create("/no/such")
    with refused(StatusCode.FAILED_PRECONDITION, "OCI runtime runc", "/no/such"):
        box.start()
    assert (box.status().exit_code, box.status().reason) == (128, "StartError")
    assert "no such file" in box.status().message


def test_what_a_handler_cannot_is_refused(cri: Cri) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "unknown runtime handler 'runsc'"):
        cri.pod(handler="runsc")
    with refused(StatusCode.INVALID_ARGUMENT, "no user namespaces"):
        cri.pod(handler="mute", linux=mapped())
    with refused(StatusCode.INVALID_ARGUMENT, "cannot share a PID namespace"):
        cri.pod(handler="runc", linux=mapped(pid=api.POD))
    pod = cri.pod(handler="runc", linux=mapped())
    options = pod.config.linux.security_context.namespace_options
    shared = api.NamespaceOption(pid=api.POD, userns_options=options.userns_options)
    with refused(StatusCode.INVALID_ARGUMENT, "cannot share a PID namespace"):
        pod.create("true", linux={"namespace_options": shared})


def test_a_runtime_that_has_gone_fails_the_start_and_is_warned_of(cri: Cri, house: Daemon, copy: Path) -> None:
    box = cri.pod(handler="copy").create("true")
    away = copy.rename(copy.with_name("away"))
    with refused(StatusCode.FAILED_PRECONDITION, "OCI runtime copy", "is not there"):
        box.start()
    assert "runtime copy: " in house.cli("info").stderr
    away.rename(copy)


def test_a_daemon_does_not_start_without_its_runtimes(tmp_path: Path) -> None:
    settings = '[runtimes.none]\npath = "/nonexistent/none"\n'
    with pytest.raises(RuntimeError, match=r"runtime none: /nonexistent/none: no such file") as refusal:
        Daemon(tmp_path, settings=settings).start()
    assert "[runtimes.none]" in str(refusal.value)


@pytest.mark.slow
def test_a_killed_daemon_finds_the_pod_again(own_house: Daemon, tmp_path: Path) -> None:
    """Between any two calls, and for a container that ends while there is none."""
    daemon = own_house
    cri = Cri(daemon.url, IMAGE, tmp_path)
    config = cri.pod_config("ship")
    pod_id = cri.run(config, "runc")
    cri = anew(daemon, cri)
    box = Pod(cri, pod_id, config).create("sh", "-c", "echo aboard; sleep 1000")
    cri = anew(daemon, cri)
    box = at(cri, box)
    box.start()
    cri = anew(daemon, cri)
    box = at(cri, box)
    assert box.sh("echo on") == "on\n"
    assert until(box.log) == [("stdout", "F", "aboard")]
    pid = next(int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cgroup") if box.id in text(path))
    daemon.kill()
    os.kill(pid, 9)
    cri.close()
    daemon.start()
    cri = Cri(daemon.url, IMAGE, tmp_path)
    assert at(cri, box).ended().exit_code == 137
    cri.clear()
    cri.close()
    until(lambda: not os.listdir(daemon.state / "pods"))


def anew(daemon: Daemon, cri: Cri) -> Cri:
    daemon.kill()
    cri.close()
    daemon.start()
    return Cri(daemon.url, IMAGE, cri.logs)


def at(cri: Cri, box: Box) -> Box:
    """The same container at a new daemon."""
    return Box(cri, Pod(cri, box.pod.id, box.pod.config), box.id)


def text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_the_command_line_chooses_a_runtime(house: Daemon) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        done = house.cli("run", "--rm", *arguments, check=False)
        return done.returncode, done.stdout + done.stderr

    assert "runc version" in house.out("info")
    script = "id -un; ulimit -n; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; exit 3"
    limits = ("-m", "32m", "--ulimit", "nofile=100:200", "-u", "nobody")
    code, text = run("--runtime", "runc", *limits, IMAGE, "sh", "-c", f"({script}) 2>/dev/null")
    assert (code, text.split()) == (3, ["nobody", "100", "33554432"])
    assert run("--runtime", "runc", IMAGE, "nothing")[0] == 127
    assert run("--runtime", "runc", IMAGE, "/etc/passwd")[0] == 126
    assert run("--runtime", "moorage", "--init", IMAGE, "echo", "our own") == (0, "our own\n")
    code, text = run("--runtime", "none", IMAGE, "true")
    assert (code, "unknown runtime 'none'" in text, "moorage, copy, mute, runc" in text) == (125, True, True)
    code, text = run("--runtime", "runc", "--init", IMAGE, "true")
    assert (code, "init: runtime 'runc' has none" in text) == (125, True)
    house.cli("run", "-d", "--name", "handled", "--runtime", "runc", IMAGE, "sleep", "1000")
    assert house.inspect("handled")["config"]["runtime"] == "runc"
    assert house.out("exec", "-u", "nobody", "handled", "id", "-un") == "nobody"
    house.cli("stop", "-t", "0", "handled")
    house.cli("start", "handled")
    house.cli("rm", "-f", "handled")
