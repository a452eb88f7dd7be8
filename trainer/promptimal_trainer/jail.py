"""Run inside the sandbox's process, as a script: take every right away that is not needed, then run the code and its tests.

    python -I -S jail.py SOCKET-NUMBER       with job.json in the working directory; see `sandbox`

Standard library alone, and nothing of this package. Three processes: the first leaves the system's namespaces, the second is process 1 of
the new one and keeps nobody alive after it, the third runs the code.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
from pathlib import Path

_NEW_USER, _APART = 0x10000000, 0x40000000 | 0x20000000 | 0x08000000  # CLONE_NEWUSER; CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWIPC
_DIE_WITH_PARENT, _KEEP_CAPABILITIES, _NO_NEW_PRIVILEGES = 1, 8, 38  # options of prctl
_MAY_READ = 1 << 2  # CAP_DAC_READ_SEARCH
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # Landlock's system calls, the same on every processor
_WRITING = 0b1_1111_1111_0010  # execute, read file and read folder aside: every right of Landlock's first version to change files
_FROM_VERSION = {2: 1 << 13, 3: 1 << 14}  # rename between folders, truncate
_MEGABYTE = 1 << 20


def main() -> None:
    """Lock the door, then run; what came of it goes to the socket as a line of JSON, the parent's own secret first."""
    door = socket.socket(fileno=int(sys.argv[1]))
    job = json.loads(Path("job.json").read_text(encoding="utf-8"))
    Path("job.json").unlink()
    apart = leave()
    kept = keep_files()
    if os.fork():
        _wait()
    _libc().prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.fork():
        _wait()
    os.setsid()
    limit(job["seconds"], job["memory"])
    if "probe" in job:
        result: dict[str, object] = {"apart": apart, "kept": kept, "readable": library_is_readable()}
    else:
        result = run(job["code"], job["tests"], job["entry_point"])
    secret = door.recv(64).decode()  # not read before the tests are done, so that it is in no variable while they run
    door.sendall(json.dumps([secret, result]).encode() + b"\n")
    os._exit(0)


def run(code: str, tests: str, entry_point: str) -> dict[str, object]:
    """Run a solution, then its tests in the same namespace; what went wrong is told as a person would want to read it."""
    space: dict[str, object] = {"__name__": "solution"}
    part = "the code"
    try:
        compiled = compile(code, "solution", "exec")
    except BaseException as error:
        return {"passed": False, "why": f"the code is no Python: {error}"}
    try:
        exec(compiled, space)
        if not callable(space.get(entry_point)):
            return {"passed": False, "why": f"the code defines no function {entry_point}"}
        part = "a test"
        exec(compile(tests, "tests", "exec"), space)
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        return {"passed": False, "why": f"{part} raised {type(error).__name__}{_where(error)}"}
    return {"passed": True, "why": ""}


def leave() -> bool:
    """No network, no sight of other processes, no privileges: new namespaces, and where root runs us a user whom nobody else is.

    False where the kernel gives no namespaces. What root could read, Python's library above all, stays readable.
    """
    if sys.platform != "linux":
        return False
    libc, root = _libc(), os.geteuid() == 0
    apart = bool(libc.unshare(_APART if root else _APART | _NEW_USER) == 0)
    if root:
        libc.prctl(_KEEP_CAPABILITIES, 1, 0, 0, 0)
        user = 30_000 + os.getpid() % 30_000  # its own for each sandbox: the limit on processes counts a user's
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    for allowed in (_MAY_READ if root else 0, 0):
        if libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", allowed, allowed, 0, 0, 0, 0)) == 0:
            break
    return apart


def library_is_readable() -> bool:
    """Whether the code will be able to import anything."""
    try:
        return bool(Path(os.__file__).read_bytes())
    except OSError:
        return False


def keep_files() -> bool:
    """Landlock: no file can be changed outside the working directory, /dev/null aside. False where the kernel has none (before Linux 5.13)."""
    if sys.platform != "linux":
        return False
    libc = _libc()
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = _WRITING
    for since, right in _FROM_VERSION.items():
        rights |= right if version >= since else 0
    handled = struct.pack("Q", rights)
    rules = libc.syscall(_CREATE, handled, ctypes.c_size_t(len(handled)), 0)
    for path, allowed in ((".", rights), ("/dev/null", 0b10)):  # 0b10: write to a file
        opened = os.open(path, os.O_RDONLY)
        libc.syscall(_ADD, rules, 1, struct.pack("=Qi", allowed, opened), 0)
        os.close(opened)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = libc.syscall(_RESTRICT, rules, 0) == 0
    os.close(rules)
    return bool(done)


def limit(seconds: float, memory: int) -> None:
    """Hard limits of this process and all it starts; `memory` in bytes."""
    for name, most in {
        "RLIMIT_CPU": int(seconds) + 1,
        "RLIMIT_AS": memory,
        "RLIMIT_DATA": memory,
        "RLIMIT_FSIZE": _MEGABYTE,
        "RLIMIT_NOFILE": 32,
        "RLIMIT_NPROC": 8,
        "RLIMIT_CORE": 0,
    }.items():
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(which, (most, most))
        except (OSError, ValueError):
            if sys.platform == "linux":  # elsewhere not every limit can be set
                raise


def _wait() -> None:
    """Stay until the only child is gone, and go as it went."""
    _, status = os.wait()
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _where(error: BaseException) -> str:
    """ ", line 3 of the tests" where it is known; the error's own words are left out: they may quote the tests."""
    places = []
    trace = error.__traceback__
    while trace:
        places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    known = [(name, line) for name, line in places if name in ("solution", "tests")]
    return f" in line {known[-1][1]} of the {known[-1][0]}" if known else ""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    main()
