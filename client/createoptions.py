"""The options of `run` and `create`, and the ContainerConfig they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from moorage.client import parse
from moorage.client.console import Parsed

if TYPE_CHECKING:
    from moorage.v1 import runtime_pb2

F = TypeVar("F", bound=Callable[..., Any])

_SIZE = Parsed("BYTES", parse.size)
_LIMIT = Parsed("BYTES", parse.size_or_unlimited)

_OPTIONS = (
    click.option("-i", "--interactive", is_flag=True, help="Keep stdin open."),
    click.option("-t", "--tty", is_flag=True, help="Give it a pseudo-terminal."),
    click.option("--rm", "auto_remove", is_flag=True, help="Remove it when it has exited."),
    click.option("--name", default="", help="Name; made up when left out."),
    click.option(
        "-e", "--env", multiple=True, metavar="KEY=VALUE", help="Environment; KEY alone takes the value here."
    ),
    click.option("--env-file", multiple=True, metavar="FILE", help="Environment, a KEY=VALUE a line."),
    click.option("-w", "--workdir", default="", metavar="DIR", help="Directory to start in."),
    click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="User, by name or number."),
    click.option("-v", "--volume", multiple=True, type=Parsed("HOST:CONTAINER[:ro]", parse.volume), help="Bind mount."),
    click.option("--tmpfs", multiple=True, type=Parsed("DIR[:size=N]", parse.tmpfs), help="Mount a tmpfs."),
    click.option(
        "-p",
        "--publish",
        multiple=True,
        type=Parsed("[[IP:]HOST:]PORT[/udp]", parse.published),
        help="Lead a port, or a range, of the host to it.",
    ),
    click.option("-m", "--memory", type=_SIZE, default="0", help="Memory limit, such as 32m."),
    click.option("--memory-swap", type=_LIMIT, default="0", help="Memory and swap together; -1 for no limit."),
    click.option("--cpus", type=Parsed("NUMBER", parse.cpus), default=0, help="CPUs it may use, such as 0.5."),
    click.option(
        "--cpu-shares", type=click.IntRange(0, 262144), default=0, help="Weight against others; 1024 is usual."
    ),
    click.option("--cpuset-cpus", default="", metavar="LIST", help="CPUs it may run on: 0-1,3."),
    click.option("--cpuset-mems", default="", metavar="LIST", help="Memory nodes it may use."),
    click.option("--pids-limit", type=click.IntRange(-1), default=0, help="Most processes and threads."),
    click.option("--ulimit", multiple=True, type=Parsed("NAME=SOFT[:HARD]", parse.ulimit), help="Resource limit."),
    click.option(
        "--network", "--net", "network", default="", help="Network: bridge (the default), host, none, or one of yours."
    ),
    click.option("-h", "--hostname", default="", help="Host name."),
    click.option("--dns", multiple=True, metavar="ADDRESS", help="Name server, instead of the host's."),
    click.option("--dns-search", multiple=True, metavar="DOMAIN", help="Search domain, instead of the host's."),
    click.option("--dns-option", multiple=True, metavar="OPTION", help="Resolver option: ndots:2."),
    click.option("--add-host", multiple=True, type=Parsed("NAME:IP", parse.host_entry), help="Line of /etc/hosts."),
    click.option("--read-only", is_flag=True, help="Mount its root file system read-only."),
    click.option("--cap-add", multiple=True, metavar="CAP", help="Capability to add, or ALL."),
    click.option("--cap-drop", multiple=True, metavar="CAP", help="Capability to take away, or ALL."),
    click.option("--privileged", is_flag=True, help="Every capability and device, no seccomp."),
    click.option(
        "--security-opt", multiple=True, metavar="OPTION", help="no-new-privileges[=false], seccomp=unconfined|FILE."
    ),
    click.option("--entrypoint", default=None, metavar="PROGRAM", help="Program instead of the image's entrypoint."),
    click.option("--init", is_flag=True, help="Run a small init as PID 1 that forwards signals and reaps."),
    click.option(
        "--runtime", default="", metavar="NAME", help="OCI runtime to make it with, of those in `moorage info`."
    ),
    click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="Label."),
    click.option("--stop-signal", default="", metavar="SIGNAL", help="Signal that asks it to stop."),
    click.option("--stop-timeout", type=click.IntRange(0), default=None, help="Seconds from that to SIGKILL."),
    click.option("--storage-opt", multiple=True, metavar="size=SIZE", help="Most that it may write to its own files."),
    click.option("--log-max-size", type=_SIZE, default="0", help="Size at which a log file is rotated."),
    click.option("--log-max-files", type=click.IntRange(0), default=0, help="Log files kept."),
    click.option(
        "--pull",
        type=click.Choice(["missing", "always", "never"]),
        default="missing",
        show_default=True,
        help="When to pull the image.",
    ),
    click.option(
        "--platform", type=Parsed("OS/ARCH[/VARIANT]", parse.platform), default=None, help="Platform to pull."
    ),
)


def create_options(function: F) -> F:
    """The options, IMAGE and COMMAND. What follows IMAGE is the container's, options included."""
    for option in (
        click.argument("command", nargs=-1, type=click.UNPROCESSED),
        click.argument("image"),
        *reversed(_OPTIONS),
    ):
        function = option(function)
    return function


CONTEXT = {"allow_interspersed_args": False, "ignore_unknown_options": False}
"""Context settings of a command whose last arguments are somebody else's command line."""


def config_from(image: str, command: Sequence[str], options: dict[str, Any]) -> runtime_pb2.ContainerConfig:
    """The configuration that `options`, as click read them, ask for. Raises click.UsageError."""
    try:
        return _config(image, list(command), options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _config(image: str, command: list[str], options: dict[str, Any]) -> runtime_pb2.ContainerConfig:
    from moorage.v1 import runtime_pb2

    entrypoint, command = _command(options["entrypoint"], command)
    from_files = [entry for path in options["env_file"] for entry in parse.env_file(path)]
    return runtime_pb2.ContainerConfig(
        image=image,
        entrypoint=entrypoint,
        command=command,
        env=parse.environment([*from_files, *options["env"]]),
        working_dir=options["workdir"],
        user=options["user"],
        hostname=options["hostname"],
        tty=options["tty"],
        stdin_open=options["interactive"],
        stdin_once=options["interactive"] and not options.get("detach", False),
        labels=parse.labels(options["label"]),
        stop_signal=options["stop_signal"],
        stop_timeout_seconds=options["stop_timeout"],
        mounts=[*options["volume"], *options["tmpfs"]],
        resources=_resources(options),
        security=_security(options),
        network=_network(options),
        init=options["init"],
        auto_remove=options["auto_remove"],
        log=runtime_pb2.LogConfig(max_size_bytes=options["log_max_size"], max_files=options["log_max_files"]),
        read_only=options["read_only"],
        rootfs_size_bytes=parse.storage_options(options["storage_opt"]),
        runtime=options["runtime"],
    )


def _command(entrypoint: str | None, command: list[str]) -> tuple[list[str], list[str]]:
    """Entrypoint and command. An empty `--entrypoint` clears the image's: the command then brings its own program."""
    if entrypoint is None:
        return [], command
    if entrypoint:
        return [entrypoint], command
    if not command:
        raise ValueError("--entrypoint '' needs a command")
    return command[:1], command[1:]


def _resources(options: dict[str, Any]) -> runtime_pb2.Resources:
    from moorage.v1 import runtime_pb2

    return runtime_pb2.Resources(
        memory_limit_bytes=options["memory"],
        memory_swap_limit_bytes=options["memory_swap"],
        cpu_nanos=options["cpus"],
        cpu_shares=options["cpu_shares"],
        cpuset_cpus=options["cpuset_cpus"],
        cpuset_mems=options["cpuset_mems"],
        pids_limit=max(options["pids_limit"], 0),
        rlimits=options["ulimit"],
    )


def _security(options: dict[str, Any]) -> runtime_pb2.Security:
    from moorage.v1 import runtime_pb2

    security = runtime_pb2.Security(
        cap_add=options["cap_add"], cap_drop=options["cap_drop"], privileged=options["privileged"]
    )
    parse.security_options(options["security_opt"], security)
    return security


def _network(options: dict[str, Any]) -> runtime_pb2.NetworkAttachment:
    from moorage.v1 import runtime_pb2

    return runtime_pb2.NetworkAttachment(
        network=options["network"],
        ports=[port for ports in options["publish"] for port in ports],
        dns_servers=options["dns"],
        dns_searches=options["dns_search"],
        dns_options=options["dns_option"],
        extra_hosts=options["add_host"],
    )
