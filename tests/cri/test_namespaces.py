"""Namespaces: shared, the host's, another container's, and a user namespace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import HANDLER, Cri, Pod, refused, until

pytestmark = pytest.mark.kernel

RANGE = [api.IDMapping(host_id=100_000, container_id=0, length=65536)]


def mapped(**options: Any) -> api.NamespaceOption:
    users = api.UserNamespace(mode=api.POD, uids=RANGE, gids=RANGE)
    return api.NamespaceOption(**{"pid": api.CONTAINER, "userns_options": users, **options})


def test_containers_share_net_ipc_and_uts_but_not_pid(cri: Cri) -> None:
    pod = cri.namespaces_pod(pid=api.CONTAINER)
    one, two = pod.run("sleep", "1000"), pod.run("sleep", "1000")
    for kind in ("net", "ipc", "uts"):
        link = one.sh(f"readlink /proc/self/ns/{kind}")
        assert link == two.sh(f"readlink /proc/self/ns/{kind}")
        assert link.strip() != os.readlink(f"/proc/self/ns/{kind}")
    assert one.sh("readlink /proc/1/ns/pid") != two.sh("readlink /proc/1/ns/pid")
    assert one.sh("cat /proc/1/comm") == "sleep\n"


def test_without_options_the_pid_namespace_is_shared(cri: Cri) -> None:
    pod = cri.pod()
    one, two = pod.run("sleep", "1000"), pod.run("sleep", "2000")
    assert one.sh("readlink /proc/self/ns/pid") == two.sh("readlink /proc/self/ns/pid")
    assert "sleep 2000" in one.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


def test_stopping_a_container_of_a_shared_namespace_kills_all_that_it_started_and_nothing_else(cri: Cri) -> None:
    pod = cri.pod()
    one = pod.run("sh", "-c", "setsid sleep 1234 & echo ready; wait")
    two = pod.run("sleep", "4321")
    until(one.log)
    one.stop(0)
    seen = two.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "sleep 1234" not in seen
    assert "sleep 4321" in seen


def test_a_container_that_ends_takes_its_orphans_along(cri: Cri) -> None:
    pod = cri.pod()
    two = pod.run("sleep", "4321")
    pod.run("sh", "-c", "setsid sleep 1234 < /dev/null > /dev/null 2>&1 & exit 0").ended()
    until(lambda: "sleep 1234" not in two.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"))


def test_the_hosts_pid_namespace(cri: Cri) -> None:
    pod = cri.namespaces_pod(pid=api.NODE)
    box = pod.run("sleep", "1000")
    assert box.sh("readlink /proc/self/ns/pid").strip() == os.readlink("/proc/self/ns/pid")
    assert Path("/proc/1/comm").read_text() == box.sh("cat /proc/1/comm")
    box.stop(0)
    assert box.status().exit_code == 137


def test_the_hosts_ipc_namespace(cri: Cri) -> None:
    assert cri.namespaces_pod(ipc=api.NODE).sh("readlink /proc/self/ns/ipc").strip() == os.readlink("/proc/self/ns/ipc")


def test_host_network_is_host_uts_too(cri: Cri) -> None:
    pod = cri.namespaces_pod(network=api.NODE)
    for kind in ("net", "uts"):
        assert pod.sh(f"readlink /proc/self/ns/{kind}").strip() == os.readlink(f"/proc/self/ns/{kind}")
    assert pod.status().linux.namespaces.options.network == api.NODE


def target(pod: Pod, identifier: str) -> dict[str, Any]:
    return {"namespace_options": api.NamespaceOption(pid=api.TARGET, target_id=identifier)}


def test_a_debugger_joins_its_targets_pid_namespace(cri: Cri) -> None:
    pod = cri.namespaces_pod(pid=api.CONTAINER)
    main = pod.run("sleep", "4321")
    box = pod.run("sleep", "1000", linux=target(pod, main.id))
    assert box.sh("cat /proc/1/cmdline | tr '\\0' ' '") == "sleep 4321 "


def test_a_target_must_run_in_the_same_pod(cri: Cri) -> None:
    pod, other = cri.namespaces_pod(pid=api.CONTAINER), cri.namespaces_pod(pid=api.CONTAINER)
    far = other.run("sleep", "1000")
    with refused(StatusCode.INVALID_ARGUMENT, far.id):
        pod.create("true", linux=target(pod, far.id))
    with refused(StatusCode.NOT_FOUND, "nothing"):
        pod.create("true", linux=target(pod, "nothing"))


def test_a_target_is_looked_at_again_at_start(cri: Cri) -> None:
    pod = cri.namespaces_pod(pid=api.CONTAINER)
    main = pod.run("sleep", "1000")
    box = pod.create("true", linux=target(pod, main.id))
    main.stop(0)
    with refused(StatusCode.FAILED_PRECONDITION, main.id):
        box.start()


def test_a_privileged_container_needs_a_privileged_pod(cri: Cri) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "privileged"):
        cri.pod().create("true", linux={"privileged": True})


def userns_pod(cri: Cri, **options: Any) -> Pod:
    context = api.LinuxSandboxSecurityContext(namespace_options=mapped(**options))
    return cri.pod(linux=api.LinuxPodSandboxConfig(security_context=context))


def needs_user_namespaces(cri: Cri) -> None:
    handlers = {each.name: each.features for each in cri.runtime.Status(api.StatusRequest()).runtime_handlers}
    if HANDLER and not handlers[HANDLER].user_namespaces:
        pytest.skip(f"handler {HANDLER} has no user namespaces")


def test_a_user_namespace_maps_root_to_a_user_of_the_host(cri: Cri) -> None:
    needs_user_namespaces(cri)
    pod = userns_pod(cri)
    assert pod.sh("cat /proc/self/uid_map").split() == ["0", "100000", "65536"]
    box = pod.run("sleep", "1000765")
    assert box.sh("id -u; stat -c %u /bin/busybox /etc/passwd").split() == ["0", "0", "0"]
    assert box.sh("touch /made; stat -c %u /made; cat /sys/class/net/lo/mtu").split() == ["0", "65536"]
    assert box.sh("stat -c %u:%g /etc/hosts /etc/resolv.conf; echo '# root' >> /etc/hosts").split() == ["0:0", "0:0"]
    host = next(path for path in Path("/proc").glob("[0-9]*/cmdline") if path.read_bytes() == b"sleep\x001000765\x00")
    assert host.stat().st_uid == 100_000


def test_a_mount_is_mapped_as_well(cri: Cri, tmp_path: Path) -> None:
    needs_user_namespaces(cri)
    tmp_path.joinpath("file").write_text("from the host\n")
    mount = api.Mount(container_path="/data", host_path=str(tmp_path), uidMappings=RANGE, gidMappings=RANGE)
    assert (
        userns_pod(cri).sh("stat -c %u /data/file; cat /data/file; touch /data/new", mounts=[mount])
        == "0\nfrom the host\n"
    )
    assert tmp_path.joinpath("new").stat().st_uid == 0


def test_a_user_of_a_user_namespace_opens_its_streams_again(cri: Cri) -> None:
    needs_user_namespaces(cri)
    pod = userns_pod(cri)
    script = "id -u; echo again > /dev/stdout; echo aside > /dev/stderr"
    box = pod.run("sh", "-c", script, linux={"run_as_user": api.Int64Value(value=1000)})
    assert box.ended().exit_code == 0
    lines = [("stderr", "F", "aside"), ("stdout", "F", "1000"), ("stdout", "F", "again")]
    assert sorted(box.log()) == lines
    box = pod.run("sh", "-c", "tty; stat -c %u $(tty)", tty=True, linux={"run_as_user": api.Int64Value(value=1000)})
    assert box.ended().exit_code == 0
    assert [text.strip() for _, _, text in box.log()][-1] == "1000"


def test_an_image_is_mapped_as_well(cri: Cri) -> None:
    needs_user_namespaces(cri)
    mount = api.Mount(container_path="/image", image=api.ImageSpec(image=cri.image), readonly=True)
    assert userns_pod(cri).sh("stat -c %u /image/bin/busybox; ! touch /image/new", mounts=[mount]).split()[0] == "0"


@pytest.mark.skipif(bool(HANDLER), reason="an OCI runtime cannot share one there")
def test_a_shared_pid_namespace_within_a_user_namespace(cri: Cri) -> None:
    context = api.LinuxSandboxSecurityContext(namespace_options=mapped(pid=api.POD))
    pod = cri.pod(linux=api.LinuxPodSandboxConfig(security_context=context))
    one, two = pod.run("sleep", "1234"), pod.run("sleep", "4321")
    seen = two.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; readlink /proc/self/ns/pid")
    assert "sleep 1234" in seen
    assert seen.split()[-1] == one.sh("readlink /proc/self/ns/pid").strip()
    one.stop(0)
    assert one.status().exit_code == 137
    assert "sleep 1234" not in two.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


@pytest.mark.parametrize(
    "users",
    [
        api.UserNamespace(mode=api.CONTAINER, uids=RANGE, gids=RANGE),
        api.UserNamespace(mode=api.POD, uids=RANGE * 2, gids=RANGE),
        api.UserNamespace(mode=api.POD, uids=RANGE),
        api.UserNamespace(mode=api.POD, uids=[api.IDMapping(host_id=1, container_id=5, length=9)], gids=RANGE),
        api.UserNamespace(mode=api.NODE, uids=RANGE, gids=RANGE),
    ],
    ids=["mode", "two", "uids only", "no root", "mapped host"],
)
def test_mappings_that_are_not_one_range_from_0_are_refused(cri: Cri, users: api.UserNamespace) -> None:
    with refused(StatusCode.INVALID_ARGUMENT):
        userns_pod(cri, userns_options=users)
    assert cri.pods() == []


def test_pod_and_container_must_agree_on_the_user_namespace(cri: Cri) -> None:
    other = [api.IDMapping(host_id=300_000, container_id=0, length=65536)]
    users = api.UserNamespace(mode=api.POD, uids=other, gids=other)
    with refused(StatusCode.INVALID_ARGUMENT):
        userns_pod(cri).create("true", linux={"namespace_options": mapped(userns_options=users)})
