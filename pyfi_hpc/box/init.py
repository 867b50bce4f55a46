"""The first process of a host in a box: starts what it is asked to, reaps, and takes everything with it when it ends.

Run as a file by any Python, with the standard library alone: `init.py FD [HOSTNAME]`. On the packet socket FD it
answers one request at a time; when the other end closes, because its owner let go or died, the host goes dark: every
process below it is killed, those that had made themselves daemons too.

| request, fields parted by NUL | answer |
|---|---|
| `run` log argument… | the pid as this host sees it, or the errno, negative |
| `kill` pid signal | 1, or 0 where there is no such process; signal 0 only asks |
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
from contextlib import suppress

#: Source: `linux/prctl.h`.
PR_SET_CHILD_SUBREAPER = 36
#: The longest request in bytes: a command line with its arguments.
REQUEST_BYTES = 65_536

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve until the other end closes."""
    line = socket.socket(fileno=int(sys.argv[1]))
    line.set_inheritable(False)
    adopt_orphans()
    for name in sys.argv[2:]:
        furnish(name)
    line.send(b"up")
    while request := next_request(line):
        line.send(b"%d" % answer(request.split(b"\0")))
    go_dark()


def adopt_orphans() -> None:
    """From now on those whose parent ends come to us."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def furnish(name: str) -> None:
    """What a machine has for itself: a name, and folders that are gone after a power cut. In namespaces of its own."""
    socket.sethostname(name)
    for folder in (b"/run", b"/dev/shm"):
        if libc.mount(b"tmpfs", folder, b"tmpfs", 0, b"mode=1777"):
            raise OSError(ctypes.get_errno(), f"mount tmpfs on {folder!r}")


def next_request(line: socket.socket) -> bytes:
    """Reap until there is one; empty once the other end has closed."""
    while not select.select([line], [], [], 0.2)[0]:
        reap()
    reap()
    try:
        return line.recv(REQUEST_BYTES)
    except ConnectionError:
        return b""


def reap() -> None:
    """Ask how children ended, so that none stays a zombie."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def answer(request: list[bytes]) -> int:
    """Do what the request asks for."""
    if request[0] == b"run":
        return run(request[1], request[2:])
    return kill(int(request[1]), int(request[2]))


def run(log: bytes, command: list[bytes]) -> int:
    """The pid of the new process, which writes into `log`; the errno, negative, where it cannot start."""
    opened = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, opened, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    try:
        return os.posix_spawn(command[0], command, os.environ, file_actions=files, setsid=True)
    except OSError as error:
        return -(error.errno or 1)


def kill(pid: int, sign: int) -> int:
    """Whether there was such a process; one that is stopped is ended all the same by SIGKILL."""
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return 0
    return 1


def go_dark() -> None:
    """Every process below this one is gone; where this is pid 1 of a namespace the kernel does it."""
    if os.getpid() == 1:
        return
    with suppress(ChildProcessError):
        while True:
            # those below a child come to us, its subreaper, as soon as it has ended
            for child in children():
                kill(child, signal.SIGKILL)
            os.waitpid(-1, 0)


def children() -> list[int]:
    """Our own, and the orphans that came to us."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


if __name__ == "__main__":
    main()
