"""One worker process as its agent sees it: started, pinned, fed over a unix socket, watched, ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from pyfi_hpc.model.status import Cause
from pyfi_hpc.wire.frames import FrameBuffer, Hello, Progress, ToAgent, ToWorker, pack_onto, read_for_agent
from pyfi_hpc.wire.limits import OUTPUT_TAIL_BYTES
from pyfi_hpc.worker.interrupts import FROM_SLURM

#: What is read at once from a worker, and once there turns out to be more.
_READ_BYTES, _MUCH_BYTES = 65_536, 1_048_576
#: What of a worker's output may pile up in memory before its agent lets the older part go.
_OUTPUT_KEPT_BYTES = 8 * 1024 * 1024
_PASSED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "HOME", "USER", "LOGNAME", "SHELL", "LD_LIBRARY_PATH")
#: Names the variables that the set-up of a pilot's script has exported, see `slurm/request/pilot.sbatch`.
SETUP_VARIABLE = "PYFI_SETUP"
#: Of those, what is not a worker's: where the shell was, our settings, and another Python than its own.
_NO_SETUP = re.compile(r"_|PWD|OLDPWD|SHLVL|PYFI_.*|PYTHON.*")


#: Why an agent gave a running call back at no cost.
_GIVEN_BACK = {
    Cause.DRAINED: "its agent was stopped, and the call was given back",
    Cause.WALLTIME: "its job's time limit was near, and the call was given back",
    Cause.PREEMPTED: "Slurm ended its job, and the call was given back",
}


class Launch(msgspec.Struct, frozen=True):
    """What a worker is started with."""

    python: Path
    module: str
    cores: Sequence[int]
    blobs: Path
    scratch: Path
    max_value_bytes: int
    extra: Mapping[str, str]
    blob_quota_bytes: int = 0


def environment(cores: Sequence[int], extra: Mapping[str, str]) -> dict[str, str]:
    """A worker's environment: nothing of ours, no secrets, numeric libraries told how many cores there are.

    What the set-up of a pilot's script has exported is its owner's wish, and goes over all but the worker's devices.
    """
    kept = {name: os.environ[name] for name in _PASSED if name in os.environ}
    wanted = [name for name in os.environ.get(SETUP_VARIABLE, "").split() if not _NO_SETUP.fullmatch(name)]
    setup = {name: os.environ[name] for name in wanted if name in os.environ}
    threads = str(len(cores))
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    return {**kept, **limits, "PYTHONUNBUFFERED": "1", **setup, **extra}


@contextlib.contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """What is started meanwhile has these signals blocked until it says otherwise; they wait for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _memory_file(name: str) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC)


def _output_file(name: str) -> int:
    descriptor = _memory_file(name)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    return descriptor


class WorkerProcess:
    """A running worker. Every method belongs to the agent's main thread."""

    def __init__(self, number: int, launch: Launch) -> None:
        """Start it, on the agent's main thread: the kernel ends a worker with the thread that made it."""
        self.number, self.launch = number, launch
        self.started = time.monotonic()
        self.hello: Hello | None = None
        #: why the agent killed it, where it did
        self.killed: Cause | None = None
        self.interrupted: tuple[int, int] | None = None
        self._buffer, self._outgoing = FrameBuffer(), bytearray()
        self._out, self._err, memory = _output_file("out"), _output_file("err"), _memory_file("progress")
        os.ftruncate(memory, Progress.SIZE)
        self.progress = Progress(memory)
        self.progress.begin(-1, -1, 0.0, 0)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        try:
            self._process = self._spawn(theirs, memory)
        finally:
            theirs.close()
            os.close(memory)

    def _spawn(self, theirs: socket.socket, memory: int) -> subprocess.Popen[bytes]:
        launch = self.launch
        command = [
            str(launch.python), "-P", "-m", "pyfi_hpc.worker",
            "--fd", str(theirs.fileno()),
            "--progress-fd", str(memory),
            "--parent", str(os.getpid()),
            "--module", launch.module,
            "--cores", ",".join(map(str, launch.cores)),
            "--blobs", str(launch.blobs),
            "--max-value-bytes", str(launch.max_value_bytes),
            "--blob-quota-bytes", str(launch.blob_quota_bytes),
        ]  # fmt: skip
        with _blocked(FROM_SLURM):
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=self._err,
                pass_fds=(theirs.fileno(), memory),
                cwd=launch.scratch,
                env=environment(launch.cores, launch.extra),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    # talking

    def send(self, frame: ToWorker) -> None:
        """Hand the frame over; what does not fit into the socket now follows when it is writable."""
        self.queue(frame)
        self.flush()

    def queue(self, frame: ToWorker) -> None:
        """Have the frame leave with the next `flush`."""
        pack_onto(self._outgoing, frame)

    @property
    def wants_to_write(self) -> bool:
        return bool(self._outgoing)

    def flush(self) -> None:
        """Write what waits, as far as the socket takes it."""
        try:
            while self._outgoing:
                sent = self.socket.send(memoryview(self._outgoing)[:1_048_576])
                del self._outgoing[:sent]
        except BlockingIOError:
            return
        except OSError:
            # it is gone: the end of its stream tells the same, with all that it sent before
            self._outgoing.clear()

    def read(self) -> tuple[list[ToAgent], bool]:
        """What it sent since the last time, and whether its stream has ended.

        Raises:
            BadInput: it does not keep the protocol.
        """
        frames: list[ToAgent] = []
        # room for much is a piece of memory of its own, had from the kernel and given back each time
        size = _READ_BYTES
        while True:
            try:
                data = self.socket.recv(size)
            except BlockingIOError:
                return frames, False
            except OSError:
                return frames, True
            if not data:
                return frames, True
            frames += [read_for_agent(body) for body in self._buffer.feed(data)]
            if len(data) < size:
                return frames, False
            size = _MUCH_BYTES

    # watching

    def resident_mib(self) -> float:
        """Resident memory of the process itself, MiB; 0 when it is gone. Source: proc(5), statm."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 1_048_576
        return 0.0

    @property
    def stalled(self) -> bool:
        """Whether somebody has stopped it. Source: proc(5), stat: T is stopped, t traced."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
        except (OSError, IndexError):
            return False

    def trim_output(self) -> None:
        """Let go of output that nobody will read: only the tail is kept."""
        for descriptor in (self._out, self._err):
            size = os.fstat(descriptor).st_size
            if os.fstat(descriptor).st_blocks * 512 > _OUTPUT_KEPT_BYTES:
                _punch_hole(descriptor, size - OUTPUT_TAIL_BYTES)

    def tails(self) -> tuple[bytes, bytes]:
        """The last of what it printed since its last finished call."""
        return _tail(self._out), _tail(self._err)

    # ending

    def interrupt(self) -> None:
        """Ask the running call to stop."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)

    def kill(self, cause: Cause) -> None:
        """End it and everything it started, at once."""
        self.killed = self.killed or cause
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def reap(self) -> int:
        """Its exit status (negative: the signal), after its stream has ended; what it left behind is killed."""
        try:
            status = self._process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            self.kill(Cause.WORKER_LOST)
            status = self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        return status

    def close(self) -> None:
        """Let its files go."""
        self.socket.close()
        self.progress.close()
        os.close(self._out)
        os.close(self._err)


def _tail(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, OUTPUT_TAIL_BYTES, max(0, size - OUTPUT_TAIL_BYTES))


def _punch_hole(descriptor: int, length: int) -> None:
    """Free the first `length` bytes of a file, keeping its size. Source: fallocate(2)."""
    import ctypes

    keep_size_punch_hole = 0x01 | 0x02
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate(descriptor, keep_size_punch_hole, ctypes.c_long(0), ctypes.c_long(max(0, length)))


def describe_end(status: int, killed: Cause | None) -> tuple[Cause, str]:
    """Cause and words for a worker's end by exit status `status` (negative: a signal)."""
    if killed is Cause.TIMEOUT:
        return Cause.TIMEOUT, "the time limit passed and the call was ended"
    if killed is Cause.HOST_OOM:
        return Cause.HOST_OOM, "the memory limit was passed and the call was ended"
    if killed is not None and killed in _GIVEN_BACK:
        return killed, _GIVEN_BACK[killed]
    if status < 0:
        return Cause.SIGNAL, f"the worker was ended by {signal.Signals(-status).name}"
    return Cause.SIGNAL, f"the worker exited with status {status}"
