"""Users, groups, capabilities, seccomp and what is hidden of /proc."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import Cri, Pod, refused
from tests.images import build_busybox, push, tar_layer
from tests.registry import LoopbackRegistry

pytestmark = pytest.mark.kernel

USERS = "registry.example/test/users:1"


@pytest.fixture(scope="module")
def users(registry: LoopbackRegistry, shared_cri: Cri) -> Iterator[str]:
    """An image whose user 1000, `sailor`, is a member of the group 50000."""
    files = {
        "etc/passwd": b"root:x:0:0::/root:/bin/sh\nsailor:x:1000:1001::/home:/bin/sh\n",
        "etc/group": b"root:x:0:\nsailor:x:1001:\ncrew:x:50000:sailor\n",
    }
    push(registry.url, "test/users", "1", build_busybox(extra_layers=[tar_layer(files)], config={"User": "sailor"}))
    shared_cri.pull(USERS)
    yield USERS
    shared_cri.remove_image(USERS)


def number(value: int) -> api.Int64Value:
    return api.Int64Value(value=value)


@pytest.mark.parametrize(
    ("linux", "printed"),
    [
        ({}, "1000 1001 1001 50000"),
        ({"run_as_username": "sailor"}, "1000 1001 1001 50000"),
        ({"run_as_user": number(1000)}, "1000 1001 1001 50000"),
        ({"run_as_user": number(1000), "run_as_group": number(7)}, "1000 7 7 50000"),
        ({"run_as_user": number(1000), "supplemental_groups": [9]}, "1000 1001 9 1001 50000"),
        (
            {"run_as_user": number(1000), "supplemental_groups": [9], "supplemental_groups_policy": api.Strict},
            "1000 1001 9 1001",
        ),
        ({"run_as_user": number(0)}, "0 0 0"),
        ({"run_as_user": number(4242)}, "4242 0 0"),
    ],
)
def test_users_and_groups(cri: Cri, users: str, linux: dict[str, Any], printed: str) -> None:
    show = "echo $(id -u) $(id -g) $(for one in $(id -G); do echo $one; done | sort -n | uniq)"
    box = cri.pod().run("sleep", "1000", image=users, linux=linux)
    assert box.sh(show).strip() == printed
    told = box.status().user
    numbers = [told.linux.uid, told.linux.gid, *sorted(told.linux.supplemental_groups)]
    assert numbers == [int(word) for word in printed.split()]
    box.stop()
    assert box.ended().user == told


@pytest.mark.parametrize(
    ("linux", "word"),
    [
        ({"run_as_group": number(7)}, "group"),
        ({"run_as_username": "nobody-knows"}, "nobody-knows"),
        ({"run_as_user": number(-1)}, "user"),
        ({"run_as_user": number(1 << 32)}, "user"),
    ],
)
def test_users_that_cannot_be(cri: Cri, users: str, linux: dict[str, Any], word: str) -> None:
    pod = cri.pod()
    with pytest.raises(Exception, match=word):
        pod.run("true", image=users, linux=linux)


@pytest.mark.parametrize(
    ("capability", "effective"),
    [
        (api.Capability(drop_capabilities=["ALL"]), 0),
        (api.Capability(drop_capabilities=["ALL"], add_capabilities=["NET_ADMIN"]), 1 << 12),
        (api.Capability(drop_capabilities=["ALL"], add_capabilities=["CAP_KILL"]), 1 << 5),
    ],
)
def test_capabilities(cri: Cri, capability: api.Capability, effective: int) -> None:
    assert (
        cri.pod().sh("grep CapEff /proc/self/status", linux={"capabilities": capability})
        == f"CapEff:\t{effective:016x}\n"
    )


def test_an_ambient_capability_reaches_a_user_that_is_not_root(cri: Cri) -> None:
    linux = {"capabilities": api.Capability(add_ambient_capabilities=["NET_BIND_SERVICE"]), "run_as_user": number(1000)}
    assert cri.pod().sh("grep CapEff /proc/self/status", linux=linux) == f"CapEff:\t{1 << 10:016x}\n"


def test_an_unknown_capability_is_refused(cri: Cri) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "NO_SUCH"):
        cri.pod().create("true", linux={"capabilities": api.Capability(add_capabilities=["NO_SUCH"])})


def profile(path: Path) -> Path:
    """A seccomp profile under which chmod(2) fails."""
    rule = {"names": ["chmod", "fchmod", "fchmodat"], "action": "SCMP_ACT_ERRNO"}
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    return path


def test_no_profile_means_unconfined_and_an_empty_one_the_default(cri: Cri) -> None:
    pod = cri.pod()
    assert pod.sh("grep Seccomp: /proc/self/status", linux={"seccomp": None}) == "Seccomp:\t0\n"
    assert pod.sh("grep Seccomp: /proc/self/status", linux={"seccomp": api.SecurityProfile()}) == "Seccomp:\t2\n"
    unconfined = api.SecurityProfile(profile_type=api.SecurityProfile.Unconfined)
    assert pod.sh("grep Seccomp: /proc/self/status", linux={"seccomp": unconfined}) == "Seccomp:\t0\n"


@pytest.mark.parametrize("prefix", ["", "localhost/"])
def test_a_profile_of_the_hosts(cri: Cri, tmp_path: Path, prefix: str) -> None:
    reference = f"{prefix}{profile(tmp_path / 'profile.json')}"
    local = api.SecurityProfile(profile_type=api.SecurityProfile.Localhost, localhost_ref=reference)
    printed = cri.pod().sh("chmod 700 /tmp 2>&1 && echo done || echo refused", linux={"seccomp": local})
    assert printed.endswith("refused\n")


def test_a_profile_that_is_not_there_is_refused(cri: Cri) -> None:
    local = api.SecurityProfile(profile_type=api.SecurityProfile.Localhost, localhost_ref="/no/such.json")
    pod = cri.pod()
    with pytest.raises(Exception, match="/no/such"):
        pod.run("true", linux={"seccomp": local})


def privileged_pod(cri: Cri) -> Pod:
    context = api.LinuxSandboxSecurityContext(privileged=True)
    return cri.pod(linux=api.LinuxPodSandboxConfig(security_context=context))


def test_privileged_ignores_the_profile_and_hides_nothing(cri: Cri, tmp_path: Path) -> None:
    reference = str(profile(tmp_path / "profile.json"))
    local = api.SecurityProfile(profile_type=api.SecurityProfile.Localhost, localhost_ref=reference)
    show = "grep Seccomp: /proc/self/status; wc -l < /etc/passwd"
    script = f"{show}; mount -t tmpfs none /tmp && echo mounted; test -c /dev/fuse && echo devices"
    linux = {"privileged": True, "seccomp": local, "masked_paths": ["/etc/passwd"]}
    assert privileged_pod(cri).sh(script, linux=linux) == "Seccomp:\t0\n2\nmounted\ndevices\n"


def test_masked_and_readonly_paths(cri: Cri) -> None:
    linux = {"masked_paths": ["/var", "/etc/passwd", "/no/such"], "readonly_paths": ["/tmp"]}
    script = "wc -c < /etc/passwd; ls /var; touch /tmp/x 2>&1 || true"
    assert cri.pod().sh(script, linux=linux).splitlines() == ["0", "touch: /tmp/x: Read-only file system"]


def test_no_new_privileges(cri: Cri) -> None:
    assert cri.pod().sh("grep NoNewPrivs /proc/self/status", linux={"no_new_privs": True}) == "NoNewPrivs:\t1\n"
    assert cri.pod().sh("grep NoNewPrivs /proc/self/status") == "NoNewPrivs:\t0\n"


def test_a_read_only_root(cri: Cri) -> None:
    """Also the files that the containers of a pod share."""
    script = "for path in /x /etc/hosts /etc/resolv.conf; do touch $path 2>&1 || true; done; touch /dev/shm/x"
    assert cri.pod().sh(script, linux={"readonly_rootfs": True}).count("Read-only file system") == 3


def test_exec_has_the_containers_user_groups_and_rights(cri: Cri) -> None:
    linux = {
        "run_as_user": number(1000),
        "run_as_group": number(2000),
        "supplemental_groups": [3000],
        "capabilities": api.Capability(drop_capabilities=["ALL"]),
        "no_new_privs": True,
    }
    box = cri.pod().run("sleep", "1000", linux=linux)
    told = box.sh("id -u; id -g; id -G; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status")
    assert told.split() == ["1000", "2000", "2000", "3000", *f"CapBnd: {0:016x} NoNewPrivs: 1 Seccomp: 2".split()]
