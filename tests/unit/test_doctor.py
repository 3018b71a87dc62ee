"""What the doctor makes of a host."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest

from moorage.server import doctor, probes
from moorage.server.libcontainer import capabilities

V1 = (
    "25 1 0:23 / {root} rw - tmpfs tmpfs rw\n"
    "26 25 0:24 / {root}/memory rw - cgroup cgroup rw,memory\n"
    "27 25 0:25 / {root}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "28 25 0:26 / {root}/uni\\040fied rw - cgroup2 cgroup2 rw\n"
)
V2 = "26 25 0:24 / {root} rw - cgroup2 cgroup2 rw\n"


def states(findings: object) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}  # type: ignore[attr-defined]


def test_this_host_is_told_about_whole() -> None:
    findings = doctor.examine("/does/not/exist/yet")
    names = [finding.name for finding in findings]
    assert len(names) == len(set(names))
    assert {"kernel", "root", "cgroups", "overlay", "disk", "seccomp", "veth", "nftables", "ip_forward"} <= set(names)
    for finding in findings:
        assert finding.detail
        assert (finding.state == "ok") == (not finding.cost), finding


@pytest.mark.parametrize(
    ("release", "state"),
    [("6.1.0-18-amd64", "ok"), ("5.12.0", "ok"), ("5.10.0-28", "missing"), ("4.19", "missing"), ("odd", "missing")],
)
def test_kernel(release: str, state: str) -> None:
    assert doctor.kernel(release).state == state


def test_idmapped_mounts() -> None:
    assert [doctor.idmapped_mounts(release).state for release in ("5.15.0", "5.19.0", "6.1.0")] == [
        "degraded",
        "ok",
        "ok",
    ]


def test_system_calls() -> None:
    assert states(doctor.system_calls({"openat2": True})) == {"system calls": "ok"}
    (lacking,) = doctor.system_calls({"openat2": True, "clone3": False})
    assert (lacking.state, lacking.detail) == ("missing", "clone3 not available")


def test_each_missing_capability_has_its_cost() -> None:
    every = frozenset(capabilities.ALL)
    assert states(doctor.privileges(0, every)) == {"root": "ok", "capabilities": "ok"}
    lacking = every - {"CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_SYS_TIME"}
    found = list(doctor.privileges(0, lacking))
    assert states(found) == {
        "root": "ok",
        "cap_sys_admin": "missing",
        "cap_sys_resource": "degraded",
        "cap_sys_time": "degraded",
    }
    assert all(finding.cost for finding in found[1:])
    assert states(doctor.privileges(1000, frozenset()))["root"] == "missing"


def test_capabilities_are_read_from_the_status() -> None:
    assert doctor.effective("Name:\tx\nCapEff:\t0000000000000003\n") == {"CAP_CHOWN", "CAP_DAC_OVERRIDE"}
    assert doctor.effective("Name:\tx\n") == frozenset()


def test_namespaces() -> None:
    kinds = {"mnt", "pid", "ipc", "uts", "net", "cgroup", "pid_for_children"}
    assert states(doctor.namespaces(kinds)) == {"namespaces": "ok"}
    assert states(doctor.namespaces(kinds - {"net", "cgroup"})) == {
        "namespaces": "missing",
        "cgroup namespaces": "degraded",
    }
    assert [doctor.user_namespaces(limit).state for limit in (None, 0, 5)] == ["degraded", "degraded", "ok"]


def test_cgroups_of_version_1(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    expected = {
        "cgroups": "ok",
        "memory controller": "ok",
        "cpu controller": "ok",
        "pids controller": "degraded",
        "cpuset controller": "degraded",
        "swap accounting": "degraded",
    }
    assert states(doctor.cgroups(V1.format(root=tmp_path))) == expected
    (tmp_path / "memory" / "memory.memsw.limit_in_bytes").touch()
    assert states(doctor.cgroups(V1.format(root=tmp_path))) == expected | {"swap accounting": "ok"}


def test_cgroups_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "init.scope").mkdir()
    (tmp_path / "init.scope" / "memory.swap.max").touch()
    found = list(doctor.cgroups(V2.format(root=tmp_path)))
    assert set(states(found).values()) == {"ok"}
    assert found[0].detail == "version 2"


def test_no_cgroups() -> None:
    assert states(doctor.cgroups("25 1 0:23 / / rw - tmpfs tmpfs rw\n")) == {"cgroups": "missing"}


@pytest.mark.parametrize(
    ("kind", "entry_types", "state"),
    [
        ("ext4", True, "ok"),
        ("xfs", None, "ok"),
        ("xfs", False, "degraded"),
        ("overlay", True, "degraded"),
        ("nfs4", True, "degraded"),
        ("fuse.sshfs", True, "degraded"),
        ("tmpfs", True, "degraded"),
    ],
)
def test_file_systems(kind: str, entry_types: bool | None, state: str) -> None:
    assert doctor.file_system(Path("/data"), kind, entry_types).state == state


def test_the_deepest_mount_is_the_one(tmp_path: Path) -> None:
    inner = tmp_path / "a b"
    inner.mkdir()
    mounts = (
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        f"2 1 8:2 / {str(inner).replace(' ', chr(92) + '040')} rw - xfs /dev/sdb rw\n"
        "3 1 0:9 / /other rw - tmpfs tmpfs rw\n"
    )
    assert (
        "xfs at" in next(f for f in doctor.storage(inner, mounts, "nodev\toverlay\n") if f.name == "file system").detail
    )
    found = list(doctor.storage(tmp_path, mounts, "\text4\n"))
    assert [finding.state for finding in found if finding.name == "overlay"] == ["degraded"]
    assert any(finding.detail.startswith("ext4 at") for finding in found)


@pytest.mark.parametrize(
    ("free_bytes", "inodes", "state"),
    [
        (100 << 30, 1000, "ok"),
        (100 << 30, None, "ok"),
        (1 << 30, 1000, "degraded"),
        (1 << 20, 1000, "missing"),
        (100 << 30, 0, "missing"),
    ],
)
def test_disk(free_bytes: int, inodes: int | None, state: str) -> None:
    assert doctor.disk(Path("/data"), free_bytes, inodes).state == state


def test_the_nearest_directory_is_looked_at(tmp_path: Path) -> None:
    assert doctor.nearest(f"{tmp_path}/not/there") == tmp_path
    assert doctor.nearest(str(tmp_path)) == tmp_path


def test_seccomp() -> None:
    assert states(doctor.seccomp("Seccomp:\t0\n", True)) == {"seccomp": "ok", "libseccomp": "ok"}
    assert states(doctor.seccomp("", False)) == {"seccomp": "missing", "libseccomp": "missing"}


def test_apparmor(tmp_path: Path) -> None:
    enabled = tmp_path / "enabled"
    assert doctor.apparmor(enabled).state == "degraded"
    enabled.write_text("Y\n")
    assert doctor.apparmor(enabled).state == "ok"


def test_forwarding_and_ports(tmp_path: Path) -> None:
    assert [doctor.forwarding(value).state for value in (1, 0, None)] == ["ok", "ok", "missing"]
    setting = tmp_path / "range"
    assert doctor.port_range(setting).state == "degraded"
    for text, state in (("32768\t60999\n", "ok"), ("1024\t65535\n", "degraded")):
        setting.write_text(text)
        assert doctor.port_range(setting).state == state


@pytest.mark.parametrize(
    ("number", "state"),
    [(0, "ok"), (errno.EPERM, "degraded"), (errno.EOPNOTSUPP, "missing"), (errno.ENOBUFS, "missing")],
)
def test_links_and_nftables(monkeypatch: pytest.MonkeyPatch, number: int, state: str) -> None:
    monkeypatch.setattr(probes, "link_error", lambda kind: number)
    monkeypatch.setattr(probes, "nftables_error", lambda: number)
    monkeypatch.setattr(probes, "has_library", lambda name: False)
    expected = {"bridge": state, "veth": state, "nftables": state, "libnftables": "missing"}
    assert states(doctor.network()) == expected


def test_findings_are_data() -> None:
    assert list(dataclasses.asdict(doctor.kernel("6.1"))) == ["name", "state", "detail", "cost", "hint"]


def test_probes_of_this_kernel(tmp_path: Path) -> None:
    assert probes.has_syscall("pidfd_open")
    assert probes.tells_entry_types(str(tmp_path)) in (True, None)
    assert probes.has_library("libc.so.6")
    assert not probes.has_library("libmoorage-none.so.1")
    before = os.readlink("/proc/self/ns/net")
    unknown = probes.link_error("moorage-none")
    assert unknown == (errno.EOPNOTSUPP if os.geteuid() == 0 else errno.EPERM)
    assert os.readlink("/proc/self/ns/net") == before
