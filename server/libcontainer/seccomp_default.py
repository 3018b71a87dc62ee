"""The default system call filter, as data: what is allowed is listed, the rest fails with EPERM.

Left out are calls that change the machine (mounts, modules, clock, swap, reboot, quotas), reach past the container's
namespaces (new namespaces, file handles, keyrings, which are not namespaced), or are large and young parts of the
kernel that few programs need (bpf, perf, io_uring, userfaultfd). A capability that a container was given brings back
the calls it is for.
"""

from __future__ import annotations

import errno
import platform
from typing import Any

FILES = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl
    fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch ioctl lchown lchown32 lgetxattr link linkat listxattr llistxattr _llseek lremovexattr lseek
    lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pipe pipe2
    pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv removexattr rename
    renameat renameat2 rmdir sendfile sendfile64 setxattr splice stat stat64 statfs statfs64 statx symlink symlinkat
    sync sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes
    vmsplice write writev
"""
WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect poll
    ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64
"""
MEMORY = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2
    mlockall mmap mmap2 mprotect mremap msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
    process_madvise process_mrelease remap_file_pages
"""
PROCESSES = """
    alarm arch_prctl capget capset execve execveat exit exit_group fork getegid getegid32 geteuid geteuid32 getgid getgid32
    getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid getresgid32 getresuid getresuid32
    getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self modify_ldt nice pause pidfd_open pidfd_send_signal prctl
    prlimit64 process_vm_readv process_vm_writev ptrace
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo seccomp setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
    setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
    setrlimit setsid setuid setuid32 sgetmask sigaction sigaltstack signal sigpending sigprocmask sigreturn sigsuspend
    ssetmask tgkill times tkill ugetrlimit vfork wait4 waitid waitpid
"""
THREADS = """
    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu
    restart_syscall rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield set_robust_list set_thread_area set_tid_address
"""
NETWORK = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmmsg_time64 recvmsg
    sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
IPC = """
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget
"""
TIME = """
    clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer
    gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64
    timer_settime timer_settime64
"""
SYSTEM = "getrandom oldolduname olduname sysinfo uname"
ARM = "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2"

# These also read the clock's state: without CAP_SYS_TIME the kernel refuses the part that writes.
CLOCK_STATE = "adjtimex clock_adjtime clock_adjtime64"

ALLOWED = " ".join((FILES, WAITING, MEMORY, PROCESSES, THREADS, NETWORK, IPC, TIME, SYSTEM, ARM, CLOCK_STATE)).split()

NEEDS_CAPABILITY = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree
        perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
}

NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
NEW_TIME_NAMESPACE = 0x80
"""Only for unshare(2): in the flags of clone(2) this bit belongs to the exit signal."""

PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Linux, 32-bit Linux, both also with an old version number, and "which is it"; none that weakens address layout."""

AF_VSOCK = 40
"""Not namespaced: it leads from any container to the hypervisor. (32-bit socketcall(2) cannot be looked into.)"""
INT_ABOVE_6_BITS = 0xFFFFFFC0

ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}


def default_profile(capabilities: frozenset[str], machine: str = "") -> dict[str, Any]:
    """The OCI `linux.seccomp` object for a container whose bounding set is `capabilities` (`CAP_…`).

    `machine` is uname(2)'s, this machine's when empty; one without an entry filters only its own kind of system call.
    """
    names = set(ALLOWED)
    for capability in capabilities:
        names.update(NEEDS_CAPABILITY.get(capability, "").split())
    syscalls = [_allow(sorted(names)), *_personalities(), *_sockets()]
    if "CAP_SYS_ADMIN" not in capabilities:
        syscalls += _without_namespaces(machine or platform.machine())
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "architectures": ARCHITECTURES.get(machine or platform.machine(), []),
        "syscalls": syscalls,
    }


def _allow(names: list[str], *args: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ALLOW", "args": list(args)}


def _personalities() -> list[dict[str, Any]]:
    return [_allow(["personality"], {"index": 0, "value": value, "op": "SCMP_CMP_EQ"}) for value in PERSONALITIES]


def _sockets() -> list[dict[str, Any]]:
    """Families below 64 that differ from AF_VSOCK in one bit at least.

    "Not equal" would compare 64 bits where the kernel takes 32, and let 0x100000028 through.
    """
    bits = [1 << number for number in range(6)]
    return [
        _allow(
            ["socket"],
            {
                "index": 0,
                "value": INT_ABOVE_6_BITS | bit,
                "valueTwo": ~AF_VSOCK & bit,
                "op": "SCMP_CMP_MASKED_EQ",
            },
        )
        for bit in bits
    ]


def _without_namespaces(machine: str) -> list[dict[str, Any]]:
    """clone and unshare without new namespaces; clone3's flags are behind a pointer, so libc must fall back to clone."""
    # clone's first two arguments are the other way round there.
    flags_index = 1 if machine.startswith("s390") else 0
    return [
        _allow(["clone"], _none_of(flags_index, NEW_NAMESPACES)),
        _allow(["unshare"], _none_of(0, NEW_NAMESPACES | NEW_TIME_NAMESPACE)),
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
    ]


def _none_of(index: int, bits: int) -> dict[str, Any]:
    return {"index": index, "value": bits, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
