"""The child's part of a start, from the fork to the command: two straight ways in (a new container, one that is there), one way on.

No module is imported and no file of the image is read here but by `paths.read_file` and `command.find`: whatever the interpreter or
the C library would look up by itself (encodings, name services, locales) would be the image's.
"""

from __future__ import annotations

import errno
import os
import posixpath
import socket
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, NoReturn

from moorage.server.libcontainer import (
    capabilities,
    command,
    devices,
    labels,
    namespaces,
    protect,
    reaper,
    rlimits,
    rootfs,
    seccomp,
    syscalls,
    sysctls,
    terminal,
    users,
)
from moorage.server.libcontainer.cgroups import Cgroup
from moorage.server.libcontainer.channel import Reporter
from moorage.server.libcontainer.errors import StartError, doing
from moorage.server.libcontainer.paths import clean, open_directory, open_in_root
from moorage.server.libcontainer.usernamespaces import IdMaps, outside


class Job(NamedTuple):
    """What to run. `process` is an OCI `process`; `stdio` are three descriptors, or None for a terminal or /dev/null."""

    process: Mapping[str, Any]
    stdio: tuple[int, int, int] | None
    cgroup: Cgroup | None
    seccomp: bytes | None
    init: bool = False
    user_namespace: int | None = None
    """To be joined last, with the map of its IDs."""
    id_maps: IdMaps | None = None
    gate: int | None = None
    """A pipe to read a byte from before the command is executed; at its end there is to be no command."""

    @property
    def terminal(self) -> bool:
        return bool(self.process.get("terminal"))


def enter_new(
    job: Job,
    config: Mapping[str, Any],
    plan: rootfs.Plan,
    spaces: namespaces.Namespaces,
    users: rootfs.Users,
    room: int,
    report: Reporter,
) -> NoReturn:
    """Make a container around the calling process, in the empty mount namespace `room`, and become its command."""
    linux = config.get("linux") or {}
    with ExitStack() as stack:
        report.stage("cgroup")
        label = labels.prepare(job.process)
        _enter_cgroup(job)
        namespaces.join(spaces)
        sysctls.apply(linux.get("sysctl") or {})
        stdio = _inherited_stdio(job)
        report.stage("rootfs")
        cgroup_namespace = namespaces.open_cgroup(spaces)
        root = rootfs.enter(plan, room, stack, users)
        namespaces.enter_cgroup(spaces, cgroup_namespace)
        if spaces.own_uts:
            _name_host(config)
        if job.terminal:
            stdio = _open_terminal(root, job, report)
            devices.bind_console(root, stdio[0])
        _make_cwd(root, job.process)
        report.stage("seal")
        rootfs.seal(root, plan)
        _become(root, job, stdio, label, report)


def enter_existing(job: Job, target: int, report: Reporter) -> NoReturn:
    """Go into the container of the process behind pidfd `target` and become one more command of it.

    The pid namespace is the caller's already. All others are joined at once, the mount namespace among them, and with it the root
    directory.
    """
    root, stdio, label = _go_inside(job, target, report)
    if job.terminal:
        stdio = _open_terminal(root, job, report)
    _become(root, job, stdio, label, report)


def spawn_in_existing(job: Job, target: int, report: Reporter) -> int:
    """As `enter_existing`, but the command becomes a child of the calling process, in the pid namespace that its children are born in.

    Without a terminal. Answers the child's pid; what the caller was allowed to do it is no more.
    """
    root, stdio, label = _go_inside(job, target, report)
    user, path, arguments, environment = _prepare(root, job, stdio, report)
    report.stage("exec")
    _drop_privileges(job, user)
    syscalls.close_on_exec(3)
    _restrict(job, label)
    return command.spawn(path, arguments, environment, stdio)


def _go_inside(job: Job, target: int, report: Reporter) -> tuple[int, tuple[int, int, int], labels.Label | None]:
    """Join the container behind pidfd `target`: its root directory, the streams, and the label to take."""
    report.stage("cgroup")
    label = labels.prepare(job.process)
    _enter_cgroup(job)
    stdio = _inherited_stdio(job)
    report.stage("join")
    with doing("join the container's namespaces"):
        syscalls.setns(target, namespaces.ALL_BUT_PID)
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), stdio, label


def _enter_cgroup(job: Job) -> None:
    os.umask(0)
    if job.process.get("oomScoreAdj") is not None:
        rlimits.set_oom_score_adj(job.process["oomScoreAdj"])
    if job.cgroup is not None:
        job.cgroup.enter()
    _leave_keyring()


def _leave_keyring() -> None:
    """The session keyring is inherited by every descendant, in whatever namespaces."""
    try:
        syscalls.new_session_keyring()
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        # The kernel has no keyrings, and so none to keep apart.


def _inherited_stdio(job: Job) -> tuple[int, int, int]:
    if job.stdio is not None:
        return job.stdio
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    return null, null, null


def _open_terminal(root: int, job: Job, report: Reporter) -> tuple[int, int, int]:
    master, slave = terminal.open_pair(root, job.process.get("consoleSize") or {})
    report.console(master)
    os.close(master)
    return slave, slave, slave


def _name_host(config: Mapping[str, Any]) -> None:
    if config.get("hostname"):
        with doing(f"set the host name {config['hostname']!r}"):
            socket.sethostname(config["hostname"])
    if config.get("domainname"):
        with doing(f"set the domain name {config['domainname']!r}"):
            syscalls.setdomainname(config["domainname"])


def _cwd(process: Mapping[str, Any]) -> str:
    return clean(process.get("cwd") or "/")


def _make_cwd(root: int, process: Mapping[str, Any]) -> None:
    with doing("make the working directory", _cwd(process)):
        os.close(open_directory(root, _cwd(process)))


def _become(root: int, job: Job, stdio: tuple[int, int, int], label: labels.Label | None, report: Reporter) -> NoReturn:
    """From inside the container to the command."""
    user, path, arguments, environment = _prepare(root, job, stdio, report)
    if job.gate is not None:
        report.stage("gate")
        pass_gate(job.gate)
    if job.init:
        _split(job, user, report)
    _attach_stdio(job, stdio)
    report.stage("exec")
    report.ready((user.uid, user.gid, user.groups))
    _drop_privileges(job, user)
    _restrict(job, label)
    syscalls.set_signal_mask(syscalls.NO_SIGNALS)
    syscalls.close_on_exec(3)
    command.execute(path, arguments, environment)


def _prepare(
    root: int, job: Job, stdio: tuple[int, int, int], report: Reporter
) -> tuple[users.User, str, Sequence[str], dict[str, str]]:
    """Who the user is, and the command: its path, arguments and environment."""
    report.stage("user")
    environment = command.environment_of(job.process.get("env") or ())
    user = users.resolve(root, job.process.get("user") or {}, want_home="HOME" not in environment)
    environment.setdefault("HOME", user.home)
    arguments = job.process.get("args") or ()
    if not arguments:
        raise StartError("there is no command")
    _change_directory(root, _cwd(job.process))
    path = command.find(arguments[0], environment)
    _own_stdio(stdio, job, user)
    return user, path, arguments, environment


def _restrict(job: Job, label: labels.Label | None) -> None:
    """The last before the command: from here on little is allowed."""
    labels.apply(label)
    if job.seccomp and job.process.get("noNewPrivileges"):
        seccomp.load(job.seccomp)


def pass_gate(gate: int) -> None:
    """Wait until it is opened. Raises StartError when it never will be."""
    if not os.read(gate, 1):
        raise StartError("what the command needs was not set up")


def _split(job: Job, user: users.User, report: Reporter) -> None:
    """Fork: the child goes on to the command, the caller stays as process 1."""
    child = os.fork()
    if child:
        report.close()
        os.setsid()
        _drop_privileges(job, user)
        reaper.run(child)


def _change_directory(root: int, path: str) -> None:
    """The directory is opened below the root, never by a link of procfs, and looked at from inside once more."""
    with doing("change to the working directory", path):
        fd = open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
        os.fchdir(fd)
        os.close(fd)
        if not posixpath.isabs(os.getcwd()):
            raise StartError(f"working directory {path} is outside the container", path=path)


def _own_stdio(stdio: tuple[int, int, int], job: Job, user: users.User) -> None:
    """Give pipes and terminals to the user, who may want to open /dev/stdout again."""
    try:
        owner = outside(job.id_maps.users, user.uid) if job.id_maps else user.uid
    except ValueError as error:
        raise StartError(f"user {user.uid} cannot be had in the user namespace: {error}") from error
    for fd in set(stdio):
        status = os.fstat(fd)
        ours = stat.S_ISFIFO(status.st_mode) or os.isatty(fd)
        if ours and status.st_uid != owner:
            with doing("change the owner of a standard stream"):
                os.fchown(fd, owner, -1)


def _attach_stdio(job: Job, stdio: tuple[int, int, int]) -> None:
    os.setsid()
    if job.terminal:
        with doing("take the terminal"):
            terminal.make_controlling(stdio[0])
    protect.set_stdio(stdio)


def _drop_privileges(job: Job, user: users.User) -> None:
    """Limits, capabilities, user; a filter here only if it cannot wait, for without no_new_privs it takes CAP_SYS_ADMIN to load."""
    process = job.process
    rlimits.apply(process.get("rlimits") or ())
    if job.user_namespace is not None:
        # With it come all capabilities, within it; the filter may forbid to join.
        with doing("join the user namespace"):
            syscalls.setns(job.user_namespace, syscalls.CLONE_NEWUSER)
    if process.get("noNewPrivileges"):
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    elif job.seccomp:
        seccomp.load(job.seccomp)
    granted = process.get("capabilities") or {}
    with doing("drop privileges"):
        capabilities.drop_bounding(granted)
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        capabilities.apply(granted)
    # A change of user may have set it by the host's fs.suid_dumpable.
    protect.hide()
    os.umask((process.get("user") or {}).get("umask", 0o022))
