"""OCI configs of containers, and the checks before."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.errors import InvalidArgument
from moorage.server.execdriver import spec
from moorage.server.libcontainer import capabilities
from moorage.server.model import (
    Container,
    ContainerConfig,
    LogConfig,
    Mount,
    NetworkAttachment,
    Resources,
    Rlimit,
    Security,
)

ID = "5" * 64
EVERYTHING = frozenset(capabilities.ALL)


@pytest.fixture(autouse=True)
def privileged_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the tests ran as root with every capability, on cgroup version 1."""
    monkeypatch.setattr(capabilities, "bounding_set", lambda: EVERYTHING)
    monkeypatch.setattr(spec, "_cgroup_version", lambda: 1)


def container(config: ContainerConfig | None = None, **changes: Any) -> Container:
    defaults: dict[str, Any] = {
        "id": ID,
        "name": "box",
        "image_id": "sha256:" + "0" * 64,
        "config": config or ContainerConfig(image="x"),
        "command": ("sleep", "1"),
        "env": ("PATH=/bin",),
        "user": "",
        "cwd": "/",
        "stop_signal": "SIGTERM",
        "state": "created",
        "created_ns": 0,
    }
    return Container(**(defaults | changes))


def build(config: ContainerConfig | None = None, **changes: Any) -> dict[str, Any]:
    return spec.build(
        container(config, **changes),
        cgroup_path=f"/moorage/{ID}",
        hosts_path="/c/hosts",
        resolv_conf_path="/c/resolv.conf",
        hostname_path="/c/hostname",
        hostname="box",
    )


def configured(**fields: Any) -> ContainerConfig:
    return ContainerConfig(image="x", **fields)


def mounted(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["destination"]: mount for mount in config["mounts"]}


# --- build ------------------------------------------------------------------------------------------------------------


def test_is_json() -> None:
    assert json.loads(json.dumps(build())) == build()


def test_process() -> None:
    process = build(user="web:www", cwd="/srv", env=("PATH=/bin", "A=1"))["process"]
    assert process["args"] == ["sleep", "1"]
    assert process["cwd"] == "/srv"
    assert process["user"] == {"uid": 0, "gid": 0, "username": "web:www"}
    assert process["env"] == ["HOSTNAME=box", "PATH=/bin", "A=1"]
    assert process["terminal"] is False
    assert process["noNewPrivileges"] is True


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", {"uid": 0, "gid": 0, "username": "0"}),
        ("1000", {"uid": 1000, "gid": 0, "username": "1000"}),
        ("1000:50", {"uid": 1000, "gid": 50, "username": "1000:50"}),
    ],
)
def test_user(user: str, expected: dict[str, Any]) -> None:
    assert build(user=user)["process"]["user"] == expected


def test_terminal_has_a_type_unless_given() -> None:
    tty = configured(tty=True)
    assert build(tty)["process"]["env"] == ["HOSTNAME=box", "TERM=xterm", "PATH=/bin"]
    assert build(tty, env=("TERM=vt100", "HOSTNAME=own"))["process"]["env"] == ["HOSTNAME=own", "TERM=vt100"]


def test_namespaces_are_those_the_pod_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build()["linux"]["namespaces"] == [{"type": "pid"}, {"type": "mount"}]
    monkeypatch.setattr(spec, "_cgroup_version", lambda: 2)
    assert build()["linux"]["namespaces"] == [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}]


def test_network_sysctls_are_the_pods() -> None:
    assert spec.pod_sysctls(host_network=False)["net.ipv4.ip_unprivileged_port_start"] == "0"
    assert spec.pod_sysctls(host_network=True) == {}
    assert "sysctl" not in build()["linux"]


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        (Security(), capabilities.DEFAULT),
        (Security(cap_add=("net_admin",)), capabilities.DEFAULT | {"CAP_NET_ADMIN"}),
        (Security(cap_drop=("CAP_NET_RAW", "MKNOD")), capabilities.DEFAULT - {"CAP_NET_RAW", "CAP_MKNOD"}),
        (Security(cap_drop=("ALL",)), frozenset()),
        (Security(cap_drop=("all",), cap_add=("CHOWN",)), {"CAP_CHOWN"}),
        (Security(cap_add=("ALL",)), EVERYTHING),
        (Security(cap_add=("ALL",), cap_drop=("SYS_ADMIN",)), EVERYTHING - {"CAP_SYS_ADMIN"}),
        (Security(privileged=True, cap_drop=("ALL",)), EVERYTHING),
    ],
)
def test_capabilities(security: Security, expected: frozenset[str]) -> None:
    found = build(configured(security=security))["process"]["capabilities"]
    assert set(found["bounding"]) == set(found["effective"]) == set(found["permitted"]) == expected
    assert found["inheritable"] == found["ambient"] == []


def test_capabilities_stay_within_the_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "bounding_set", lambda: frozenset({"CAP_CHOWN", "CAP_BPF"}))
    assert build()["process"]["capabilities"]["bounding"] == ["CAP_CHOWN"]
    everything = build(configured(security=Security(cap_add=("ALL",))))
    assert everything["process"]["capabilities"]["bounding"] == ["CAP_CHOWN", "CAP_BPF"]


def test_seccomp() -> None:
    def seccomp(**fields: Any) -> Any:
        return build(configured(security=Security(**fields)))["linux"].get("seccomp")

    def names(profile: dict[str, Any]) -> set[str]:
        return {name for rule in profile["syscalls"] for name in rule["names"]}

    assert "mount" not in names(seccomp())
    assert "mount" in names(seccomp(cap_add=("SYS_ADMIN",)))
    assert seccomp(seccomp_profile="unconfined") is None
    assert seccomp(privileged=True) is None
    assert seccomp(seccomp_profile='{"defaultAction": "SCMP_ACT_LOG"}') == {"defaultAction": "SCMP_ACT_LOG"}


def test_privileged_sees_the_machine() -> None:
    config = build(configured(security=Security(privileged=True)))
    assert config["linux"]["maskedPaths"] == config["linux"]["readonlyPaths"] == []
    assert config["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert config["process"]["noNewPrivileges"] is False
    assert not [mount for mount in config["mounts"] if "ro" in mount["options"]]
    devices = {device["path"]: device for device in config["linux"]["devices"]}
    assert (devices["/dev/null"]["type"], devices["/dev/null"]["major"], devices["/dev/null"]["minor"]) == ("c", 1, 3)
    assert not [path for path in devices if path.startswith("/dev/pts/")]


def test_unprivileged_sees_little() -> None:
    linux = build()["linux"]
    assert {"/proc/kcore", "/sys/firmware"} <= set(linux["maskedPaths"])
    assert "/proc/sys" in linux["readonlyPaths"]
    assert linux["devices"] == []
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert mounted(build())["/sys"]["options"][-1] == "ro"


def test_mounts_outer_before_inner() -> None:
    mounts = (Mount("bind", "/a/b/c", "/src"), Mount("bind", "/a", "/src"), Mount("tmpfs", "/a/b", size=4096))
    order = [mount["destination"] for mount in build(configured(mounts=mounts))["mounts"]]
    assert order.index("/proc") < order.index("/a") < order.index("/a/b") < order.index("/a/b/c")


def test_bind_mounts() -> None:
    mounts = (Mount("bind", "/rw/", "/src"), Mount("bind", "/ro", "/src", read_only=True, propagation="rslave"))
    found = mounted(build(configured(mounts=mounts)))
    assert found["/rw"] == {"destination": "/rw", "type": "bind", "source": "/src", "options": ["rbind", "rprivate"]}
    assert found["/ro"]["options"] == ["rbind", "rslave", "ro", "rro"]
    assert found["/etc/hosts"]["source"] == "/c/hosts"


def test_tmpfs() -> None:
    found = mounted(build(configured(mounts=(Mount("tmpfs", "/t", size=4096, read_only=True),))))["/t"]
    assert found["type"] == "tmpfs"
    assert found["options"] == ["nosuid", "noexec", "nodev", "mode=1777", "size=4096", "ro"]


def test_what_was_asked_for_takes_the_place_of_a_default() -> None:
    mounts = (
        Mount("bind", "/etc/hosts", "/own"),
        Mount("tmpfs", "/dev/shm", size=1 << 20),
        Mount("bind", "/sys", "/sys"),
    )
    config = build(configured(mounts=mounts))
    assert len({mount["destination"] for mount in config["mounts"]}) == len(config["mounts"])
    assert mounted(config)["/etc/hosts"]["source"] == "/own"
    assert "size=1048576" in mounted(config)["/dev/shm"]["options"]
    assert "/sys/fs/cgroup" not in mounted(config)


def test_read_only_root() -> None:
    found = build(configured(read_only=True))
    assert found["root"]["readonly"] is True
    assert all("ro" in mounted(found)[f"/etc/{name}"]["options"] for name in ("hosts", "hostname", "resolv.conf"))
    assert mounted(build())["/etc/hosts"]["options"] == ["rbind", "rprivate"]
    assert build()["root"]["readonly"] is False


def test_rlimits() -> None:
    config = configured(resources=Resources(rlimits=(Rlimit("nofile", 10, 20),)))
    assert build(config)["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}]


resources = st.builds(
    Resources,
    memory=st.sampled_from([0, 6 << 20, 64 << 20]),
    memory_swap=st.sampled_from([0, -1, 128 << 20]),
    cpu_nanos=st.integers(10_000_000, 64_000_000_000) | st.just(0),
    cpu_shares=st.integers(2, 262144) | st.just(0),
    cpuset_cpus=st.sampled_from(["", "0"]),
    pids=st.integers(0, 1 << 22),
)


@given(resources)
def test_resources(asked: Resources) -> None:
    found = spec.limits(asked)
    memory, cpu = found.get("memory", {}), found.get("cpu", {})
    assert memory.get("limit", 0) == asked.memory
    assert memory.get("swap", 0) == ((asked.memory_swap or asked.memory) if asked.memory else 0)
    assert cpu.get("shares", 0) == asked.cpu_shares
    assert cpu.get("cpus", "") == asked.cpuset_cpus
    assert found.get("pids", {}).get("limit", 0) == asked.pids
    if asked.cpu_nanos:
        assert abs(cpu["quota"] / cpu["period"] - asked.cpu_nanos / 1e9) < 1e-4
        assert cpu["quota"] >= 1000
    assert all(found.values())


def test_image_values_are_checked() -> None:
    for changes in ({"user": "a:b:c"}, {"env": ("=x",)}, {"cwd": "relative"}, {"stop_signal": "SIGNOT"}):
        with pytest.raises(InvalidArgument):
            build(**changes)


# --- exec -------------------------------------------------------------------------------------------------------------


def test_exec_inherits_from_the_container() -> None:
    box = container(configured(resources=Resources(rlimits=(Rlimit("core", 0, 0),))), user="web", cwd="/srv")
    process = spec.exec_process(box, command=["id"], env=["B=2"], cwd="", user="", tty=False, privileged=False)
    assert process["args"] == ["id"]
    assert process["user"]["username"] == "web"
    assert process["cwd"] == "/srv"
    assert process["env"] == [f"HOSTNAME={ID[:12]}", "PATH=/bin", "B=2"]
    assert process["rlimits"][0]["type"] == "RLIMIT_CORE"
    assert set(process["capabilities"]["effective"]) == capabilities.DEFAULT


def test_exec_on_its_own_terms() -> None:
    process = spec.exec_process(
        container(user="web"), command=["id"], env=["PATH=/x"], cwd="/tmp", user="0", tty=True, privileged=True
    )
    assert process["user"]["username"] == "0"
    assert process["cwd"] == "/tmp"
    assert process["terminal"] is True
    assert set(process["env"]) == {f"HOSTNAME={ID[:12]}", "TERM=xterm", "PATH=/x"}
    assert set(process["capabilities"]["effective"]) == EVERYTHING
    assert process["noNewPrivileges"] is False


def test_exec_is_checked() -> None:
    with pytest.raises(InvalidArgument, match="null byte"):
        spec.exec_process(container(), command=["a\0b"], env=[], cwd="", user="", tty=False, privileged=False)


# --- signals ----------------------------------------------------------------------------------------------------------


@given(st.sampled_from(list(signal.Signals)), st.sampled_from(["SIG", ""]), st.booleans())
def test_signal_names(number: signal.Signals, prefix: str, lower: bool) -> None:
    name = prefix + number.name.removeprefix("SIG")
    assert spec.parse_signal(name.lower() if lower else name) == number
    assert spec.parse_signal(str(int(number))) == number


@pytest.mark.parametrize(("text", "number"), [("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("rtmin", 34), (" 9 ", 9)])
def test_signal_forms(text: str, number: int) -> None:
    assert spec.parse_signal(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "0", "65", "-1", "SIG", "SIGSIGTERM", "SIGNOT", "RTMAX+1", "RTMIN-1", "9" * 5000, "²", "TERM\n0", "_IGN"],
)
def test_not_signals(text: str) -> None:
    with pytest.raises(InvalidArgument, match="unknown signal"):
        spec.parse_signal(text)


# --- check ------------------------------------------------------------------------------------------------------------

CPUS = os.cpu_count() or 1


def limits(**fields: Any) -> dict[str, Any]:
    return {"resources": Resources(**fields)}


def security(**fields: Any) -> dict[str, Any]:
    return {"security": Security(**fields)}


def mount(*args: Any, **fields: Any) -> dict[str, Any]:
    return {"mounts": (Mount(*args, **fields),)}


def network(**fields: Any) -> dict[str, Any]:
    return {"network": NetworkAttachment(**fields)}


GOOD: list[dict[str, Any]] = [
    {},
    limits(memory=2 << 20),
    limits(memory=64 << 20, memory_swap=-1),
    limits(cpu_nanos=CPUS * 1_000_000_000, cpuset_cpus="0", cpuset_mems="0", cpu_shares=2, pids=1),
    limits(rlimits=(Rlimit("NOFILE", 10, -1), Rlimit("core", -1, -1))),
    security(cap_add=("ALL",), cap_drop=("cap_net_raw",), seccomp_profile="unconfined"),
    security(seccomp_profile='{"defaultAction": "SCMP_ACT_ALLOW"}'),
    mount("bind", "/data", "/", propagation="rshared"),
    mount("bind", "/proc/uptime", "/proc/uptime"),
    mount("bind", "/proc", "/proc"),
    mount("tmpfs", "/tmp", size=1 << 30),
    {"hostname": "a-b.example.org", "stop_signal": "SIGRTMIN+3", "user": "1000:users", "stop_timeout": 0},
    {"env": ("A=", "B=x=y\nz"), "working_dir": "/srv/a b"},
    network(dns_servers=("1.1.1.1", "::1"), dns_searches=("a.example",), dns_options=("ndots:2",)),
    network(extra_hosts=("db:10.0.0.1", "v6:::1", "w6:[fe80::1]")),
]

BAD: list[tuple[str, dict[str, Any]]] = [
    ("resources.memory_limit_bytes", limits(memory=(2 << 20) - 1)),
    ("resources.memory_limit_bytes", limits(memory=-1)),
    ("resources.memory_limit_bytes", limits(memory=1 << 63)),
    ("resources.memory_swap_limit_bytes", limits(memory=64 << 20, memory_swap=32 << 20)),
    ("resources.memory_swap_limit_bytes", limits(memory_swap=32 << 20)),
    ("resources.memory_swap_limit_bytes", limits(memory_swap=-2)),
    ("resources.cpu_nanos", limits(cpu_nanos=CPUS * 1_000_000_000 + 1)),
    ("resources.cpu_nanos", limits(cpu_nanos=9_999_999)),
    ("resources.cpu_nanos", limits(cpu_nanos=-1)),
    ("resources.cpu_shares", limits(cpu_shares=1)),
    ("resources.cpuset_cpus", limits(cpuset_cpus="0-99999")),
    ("resources.cpuset_cpus", limits(cpuset_cpus="1-0")),
    ("resources.cpuset_cpus", limits(cpuset_cpus="0,")),
    ("resources.cpuset_cpus", limits(cpuset_cpus="0\n")),
    ("resources.cpuset_mems", limits(cpuset_mems="4096")),
    ("resources.pids_limit", limits(pids=-1)),
    ("resources.rlimits", limits(rlimits=(Rlimit("files", 1, 1),))),
    ("resources.rlimits", limits(rlimits=(Rlimit("nofile", 2, 1),))),
    ("resources.rlimits", limits(rlimits=(Rlimit("nofile", -1, 1),))),
    ("resources.rlimits", limits(rlimits=(Rlimit("nofile", -2, 1),))),
    ("resources.rlimits", limits(rlimits=(Rlimit("core", 1, 1), Rlimit("CORE", 2, 2)))),
    ("security.cap_add", security(cap_add=("CAP_FLY",))),
    ("security.cap_drop", security(cap_drop=("",))),
    ("security.seccomp_profile", security(seccomp_profile="{")),
    ("security.seccomp_profile", security(seccomp_profile="[]")),
    ("security.seccomp_profile", security(seccomp_profile="{}")),
    ("security.seccomp_profile", security(seccomp_profile="[" * 100_000)),
    ("security.seccomp_profile", security(seccomp_profile='{"defaultAction": []}')),
    ("security.seccomp_profile", security(seccomp_profile='{"defaultAction": "SCMP_ACT_KILL", "syscalls": [1]}')),
    ("security.seccomp_profile", security(seccomp_profile='{"defaultAction": [1]}')),
    (
        "security.seccomp_profile",
        security(
            seccomp_profile='{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":'
            ' [{"action": "SCMP_ACT_KILL", "names": ["\\ud800"]}]}'
        ),
    ),
    ("security.seccomp_profile", security(seccomp_profile=" " * (1 << 20))),
    ("mounts.target", mount("bind", "data", "/")),
    ("mounts.target", mount("bind", "/a/../b", "/")),
    ("mounts.target", mount("bind", "/", "/")),
    ("mounts.target", mount("bind", "/a\nb", "/")),
    ("mounts.target", mount("bind", "/proc", "/")),
    ("mounts.target", mount("bind", "/proc", "/no/such/place")),
    ("mounts.target", mount("tmpfs", "/proc")),
    ("mounts.target", mount("bind", "/proc/self/attr", "/")),
    ("mounts.target", {"mounts": (Mount("tmpfs", "/a"), Mount("tmpfs", "/a/"))}),
    ("mounts.source", mount("bind", "/a", "relative")),
    ("mounts.source", mount("bind", "/a", "/no/such/place")),
    ("mounts.source", mount("tmpfs", "/a", "/tmp")),
    ("mounts.propagation", mount("bind", "/a", "/", propagation="loud")),
    ("mounts.size_bytes", mount("bind", "/a", "/", size=1)),
    ("mounts.size_bytes", mount("tmpfs", "/a", size=-1)),
    ("hostname", {"hostname": "-a"}),
    ("hostname", {"hostname": "a\nb"}),
    ("hostname", {"hostname": "a" * 65}),
    ("signal", {"stop_signal": "SIGNOT"}),
    ("stop_timeout_seconds", {"stop_timeout": -1}),
    ("env", {"env": ("NAME",)}),
    ("env", {"env": ("=value",)}),
    ("env", {"env": ("A=\0",)}),
    ("env", {"env": ("A\nB=1",)}),
    ("env", {"env": ("A=" + "x" * (1 << 20),)}),
    ("command", {"command": ("a\0",)}),
    ("command", {"entrypoint": ("a\0",)}),
    ("working_dir", {"working_dir": "srv"}),
    ("user", {"user": "a b"}),
    ("user", {"user": ":1"}),
    ("user", {"user": "1:"}),
    ("user", {"user": "4294967296"}),
    ("user", {"user": "0:2147483648"}),
    ("user", {"user": "root\n"}),
    ("network.dns_servers", network(dns_servers=("one.one",))),
    ("network.dns_searches", network(dns_searches=("a\nnameserver 6.6.6.6",))),
    ("network.dns_options", network(dns_options=("ndots:2 x",))),
    ("network.extra_hosts", network(extra_hosts=("db",))),
    ("network.extra_hosts", network(extra_hosts=("d b:1.2.3.4",))),
    ("network.extra_hosts", network(extra_hosts=("db:1.2.3.4\n6.6.6.6 x",))),
    ("log.max_size_bytes", {"log": LogConfig(max_size=-1)}),
    ("log.max_files", {"log": LogConfig(max_files=-1)}),
]


@pytest.mark.parametrize("fields", GOOD)
def test_good_configs(fields: dict[str, Any]) -> None:
    config = configured(**fields)
    spec.check(config)
    assert build(config)["ociVersion"] == "1.2.0"


@pytest.mark.parametrize(("field", "fields"), BAD, ids=[f"{field}-{n}" for n, (field, _) in enumerate(BAD)])
def test_bad_configs_name_the_field(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        spec.check(configured(**fields))
    assert caught.value.metadata["field"] == field
    assert caught.value.message.startswith(f"{field}: ")


def test_capabilities_that_the_daemon_lacks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "bounding_set", lambda: EVERYTHING - {"CAP_SYS_RESOURCE"})
    with pytest.raises(InvalidArgument, match="daemon does not have it"):
        spec.check(configured(security=Security(cap_add=("SYS_RESOURCE",))))
    spec.check(configured(security=Security(cap_add=("ALL",), cap_drop=("SYS_RESOURCE",))))


def test_a_dangling_link_is_no_source(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    with pytest.raises(InvalidArgument, match="does not exist"):
        spec.check(configured(mounts=(Mount("bind", "/a", str(link)),)))
