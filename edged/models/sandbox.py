"""What a process denies itself for good: network, other processes, memory without end. Linux.

For the child that tries a candidate. A model is signed and so trusted not to be an attack; what is
contained here is what a broken one does by accident, and what a stolen key could make of it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_ALLOW, _ERRNO, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050000, 1, 38
_CLONE_THREAD = 0x00010000
# Offsets in struct seccomp_data: nr, arch, and the low half of the first argument.
_NR, _ARCH, _ARGUMENT = 0, 4, 16


@dataclass(frozen=True, slots=True)
class _Calls:
    """Numbers of system calls on one architecture, from its asm/unistd.h.

    Attributes:
        arch: AUDIT_ARCH_... of linux/audit.h.
        denied: socket, socketpair, execve, execveat, fork, vfork, kill, ptrace,
            process_vm_readv, process_vm_writev, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo; those
            that the architecture has.
        clone: allowed for threads only.
        tgkill: allowed for this process only: abort is one.
    """

    arch: int
    denied: tuple[int, ...]
    clone: int
    tgkill: int


_ARCHITECTURES = {
    "x86_64": _Calls(
        0xC000003E, (41, 53, 59, 322, 57, 58, 62, 101, 310, 311, 200, 129, 297), 56, 234
    ),
    "aarch64": _Calls(
        0xC00000B7, (198, 199, 221, 281, 129, 117, 270, 271, 130, 138, 240), 220, 131
    ),
    "armv7l": _Calls(
        0x40000028, (281, 288, 11, 387, 2, 190, 37, 26, 376, 377, 238, 178, 363), 120, 268
    ),
}
# The same number everywhere: io_uring_setup makes sockets too; clone3 hides its flags from a
# filter, and glibc takes clone where it is not implemented.
_PIDFD_SEND_SIGNAL, _IO_URING_SETUP, _CLONE3 = 424, 425, 435
# Bit 30 of the number asks for the x32 interface of x86-64, which has numbers of its own.
_X32 = 0x40000000


@dataclass(frozen=True, slots=True)
class Fence:
    """How far a process may go.

    Attributes:
        cpu_s: seconds of CPU; SIGXCPU ends it.
        data_bytes: private memory beyond what it has; an allocation beyond that fails.
        parent: process id; when it ends this process is killed.
    """

    cpu_s: int
    data_bytes: int
    parent: int


def fence_in(fence: Fence) -> tuple[str, ...]:
    """Deny this process what it does not need; for good, before it has threads.

    Returns:
        What is enforced, of `parent`, `nice`, `oom_first`, `cpu`, `memory`, `files`, `descriptors`,
        `core`, and `network` and `processes`, which need seccomp.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("parent", lambda: _die_with(libc, fence.parent)),
        ("nice", lambda: os.nice(10)),
        # The kernel takes the process with the highest score first: this one, not the daemon.
        ("oom_first", lambda: Path("/proc/self/oom_score_adj").write_text("1000", "ascii")),
        ("cpu", lambda: _limit(resource.RLIMIT_CPU, fence.cpu_s, grace=1)),
        ("memory", lambda: _limit(resource.RLIMIT_DATA, _data_bytes() + fence.data_bytes)),
        ("files", lambda: _limit(resource.RLIMIT_FSIZE, 0)),
        ("descriptors", lambda: _limit(resource.RLIMIT_NOFILE, 64)),
        ("core", lambda: _limit(resource.RLIMIT_CORE, 0)),
    )
    done = []
    for name, step in steps:
        try:
            step()
        except (OSError, ValueError):
            continue  # what a stricter sandbox around this one may forbid; the caller is told
        done.append(name)
    if _filter_calls(libc):
        done += ["network", "processes"]
    return tuple(done)


def _die_with(libc: ctypes.CDLL, parent: int) -> None:
    _prctl(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has gone already
        os.kill(os.getpid(), signal.SIGKILL)


def _limit(which: int, value: int, grace: int = 0) -> None:
    """Set a limit; `grace` is between what is told, by SIGXCPU, and what kills."""
    _, hard = resource.getrlimit(which)
    most = value + grace
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (min(value, most), most))


def _data_bytes() -> int:
    """Return what counts against RLIMIT_DATA now."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])
    return pages * resource.getpagesize()


def _filter_calls(libc: ctypes.CDLL) -> bool:
    """Install a seccomp filter; say whether there is one."""
    calls = _ARCHITECTURES.get(platform.machine())
    # A 32-bit Python on a 64-bit kernel calls it by the numbers of the former.
    if calls is None or (calls.arch & 0x80000000 != 0) != (struct.calcsize("P") == 8):
        return False
    code = _program(calls, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    try:
        _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
        _prctl(libc, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(header))
    except OSError:
        return False
    return True


def _program(calls: _Calls, own: int) -> bytes:
    """Return the filter: instructions of classic BPF, 8 bytes each, as linux/filter.h has them."""
    load, equal, at_least, all_bits, ret = 0x20, 0x15, 0x35, 0x45, 0x06
    code = [
        (load, 0, 0, _ARCH),
        (equal, 1, 0, calls.arch),
        (ret, 0, 0, _ERRNO | _EPERM),
        (load, 0, 0, _NR),
        (at_least, 0, 1, _X32),
        (ret, 0, 0, _ERRNO | _EPERM),
    ]
    for number in (*calls.denied, _PIDFD_SEND_SIGNAL, _IO_URING_SETUP):
        code += [(equal, 0, 1, number), (ret, 0, 0, _ERRNO | _EPERM)]
    code += [(equal, 0, 1, _CLONE3), (ret, 0, 0, _ERRNO | _ENOSYS)]
    code += [
        (equal, 0, 4, calls.tgkill),
        (load, 0, 0, _ARGUMENT),
        (equal, 1, 0, own),
        (ret, 0, 0, _ERRNO | _EPERM),
        (ret, 0, 0, _ALLOW),
        (equal, 0, 3, calls.clone),
        (load, 0, 0, _ARGUMENT),
        (all_bits, 1, 0, _CLONE_THREAD),
        (ret, 0, 0, _ERRNO | _EPERM),
        (ret, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _prctl(libc: ctypes.CDLL, *arguments: object) -> None:
    padded = [*arguments, *(0,) * (5 - len(arguments))]
    if libc.prctl(*[ctypes.c_ulong(a) if isinstance(a, int) else a for a in padded]) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
