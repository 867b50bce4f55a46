"""A cluster in a box in the background: one process holds it, and a small parent cleans up however that one ends."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pyfi_hpc.box import init
from pyfi_hpc.box.cluster import Cluster, Tell, traces
from pyfi_hpc.errors import PyfiError, Unavailable
from pyfi_hpc.processes import end

#: A removal in order takes a second or two.
STOP_SECONDS = 60.0
#: The last line of a start that went well, and what that of another one begins with; JSON follows.
READY, REFUSED = "ready", "refused "


def default_home() -> Path:
    """The folder of a person's cluster; pyfi's own settings have no say, since the cluster makes new ones."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.local/state").expanduser()) / "pyfi" / "cluster"


class Background:
    """The cluster of one folder. Beside it, `….lock` is locked as long as somebody holds the cluster."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self._lock = self.home.with_name(f"{self.home.name}.lock")

    @property
    def log(self) -> Path:
        """What the process in the background has said, if it ended otherwise than it should."""
        return self.home.with_name(f"{self.home.name}.log")

    @property
    def pid(self) -> int | None:
        """Who holds the cluster; None when nobody does."""
        try:
            with self._lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return int(self._lock.read_text() or 0) or None
        return None

    def how_to_use(self) -> str:
        """What a person types next."""
        return f"source {self.home / 'env'}"

    def start(self, options: Mapping[str, Any], tell: Tell) -> None:
        """The cluster can be used; `options` are those of `Cluster`.

        Raises:
            Unavailable: it does not start, and why; nothing of it is left.
        """
        self.home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(self.home)
        command = [sys.executable, "-P", "-m", "pyfi_hpc.box.background", str(self.home), json.dumps(options)]
        with self.log.open("wb") as log:
            keeper = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                text=True,
                start_new_session=True,
            )
        assert keeper.stdout is not None
        try:
            for line in map(str.strip, keeper.stdout):
                if line == READY:
                    return
                if line.startswith(REFUSED):
                    raise _refusal(line)
                tell(line)
            raise Unavailable("E_SLURM", "the cluster does not start", at=str(self.log), cure="read the log")
        except BaseException:
            end(keeper.pid, signal.SIGTERM, patience=STOP_SECONDS)
            keeper.wait()
            raise

    def stop(self) -> bool:
        """Nothing of the cluster is left; False when there was none."""
        pid = self.pid
        if pid is not None:
            end(pid, signal.SIGTERM, patience=STOP_SECONDS)
        sweep(self.home)
        for file in (self._lock, self.log):
            file.unlink(missing_ok=True)
        return pid is not None


def _refusal(line: str) -> Unavailable:
    code, what, at, cure = json.loads(line.removeprefix(REFUSED))
    return Unavailable(code, what, at=at, cure=cure)


@contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """Hold the lock, with our number in it."""
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file


def keep(home: Path, options: str) -> None:
    """Hold the lock, let a child hold the cluster, and afterwards take away whatever it has left."""
    init.adopt_orphans()
    command = [sys.executable, "-P", "-m", "pyfi_hpc.box.background", "--hold", str(home), options]
    with _locked(home.with_name(f"{home.name}.lock")):
        # its standard input closes when we are gone
        child = subprocess.Popen(command, stdin=subprocess.PIPE)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        _let_go_of_stdout()
        child.wait()
        init.go_dark()
        sweep(home)


def sweep(home: Path) -> None:
    """Take away the folders that a cluster which was killed has left."""
    for path in reversed(traces(home)):
        shutil.rmtree(path, ignore_errors=True)


def hold(home: Path, options: str) -> None:
    """Hold the cluster until we are told to end, are left alone, or its folder is taken away."""
    over, wake = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(wake, b"."))
    try:
        with Cluster(**json.loads(options), home=home, tell=tell):
            tell(READY)
            _let_go_of_stdout()
            # without its folder nobody could stop it
            while not select.select([over, 0], [], [], 2.0)[0] and home.exists():
                pass
    except PyfiError as error:
        tell(REFUSED + json.dumps([error.code, error.what, error.at, error.cure]))
        sys.exit(error.exit_code)


def _let_go_of_stdout() -> None:
    """So that whoever reads it sees its end."""
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 1)


def tell(line: str) -> None:
    """One line to whoever started us; it may have gone."""
    with suppress(BrokenPipeError):
        print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--hold":
        hold(Path(sys.argv[2]), sys.argv[3])
    else:
        keep(Path(sys.argv[1]), sys.argv[2])
