"""Environments for processors: built once for each commit and interpreter, then shared by every worker.

envs/KEY/               the virtual environment, published by one rename
envs/KEY/source/        the repository's files at the commit
logs/build-KEY.log      what the build printed
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import uv

from pyfi_hpc.envs import guard, runner, surroundings
from pyfi_hpc.envs.locks import locked
from pyfi_hpc.envs.mirror import Mirror, pinned
from pyfi_hpc.errors import BadInput, shown

TIME_LIMIT_SECONDS = 900.0
TAIL_LINES = 30

_ASK = "import sys, sysconfig; print(sys.executable, sys.version.replace(chr(10), ' '), sep='\\n');" + (
    "print(sysconfig.get_config_var('SOABI'))"
)
#: Asked once, at import: of two threads that ask first at the same time, one may be told None.
_OWN_ABI = str(sysconfig.get_config_var("SOABI"))
# what uv says when an index or a host could not be reached
_PASSING = re.compile(r"error sending request|dns error|connection (refused|reset|closed)|timed out|50[234] ", re.I)


@dataclass(frozen=True)
class EnvironmentSpec:
    """What an environment is made from.

    Attributes:
        url: the repository, judged by the allow-list already.
        commit: the full hash.
        requirements: the text of a requirements file that stands in for the repository's own; None for its own.
        python: a version (`3.12`) or the path of an interpreter; None for the one that runs us.
    """

    url: str
    commit: str
    requirements: str | None = None
    python: str | None = None


@dataclass(frozen=True)
class Environment:
    """One that is ready: run `python`; `source` holds the repository's files at `commit`."""

    python: Path
    key: str
    root: Path
    commit: str
    source: Path


@dataclass(frozen=True)
class Interpreter:
    """A Python of this machine; packages with compiled parts fit those of the same `abi`."""

    path: str
    version: str
    abi: str


class EnvironmentCache:
    """The environments below one cache folder, for any number of processes at once.

    Attributes:
        time_limit: seconds for one build, after which all of it is killed.
    """

    def __init__(self, cache: Path, *, mirror: Mirror | None = None, time_limit: float = TIME_LIMIT_SECONDS) -> None:
        self.cache, self.time_limit = cache.absolute(), time_limit
        self.mirror = mirror or Mirror(self.cache)

    def ensure(self, spec: EnvironmentSpec) -> Environment:
        """The environment of `spec`, built now if it is not there; another's build of it is waited for.

        Raises:
            BadInput: E_BUILD, with the end of the log in `facts["log"]` and its file in `facts["path"]`.
            and what `Mirror.fetch` raises.
        """
        interpreter = find_interpreter(spec.python)
        key = key_of(spec, interpreter)
        root = self._root(key)
        if not root.is_dir():
            with locked(root.with_name(f".{key}.lock")) as lock:
                if not root.is_dir():
                    self._build(spec, interpreter, key, lock)
        return Environment(root / "bin" / "python", key, root, pinned(spec.commit), root / "source")

    def prune(self, keep: Collection[str]) -> set[str]:
        """Remove the environments whose keys are not in `keep`, save those being built; the keys removed."""
        gone = set()
        for root in sorted(self._root("").glob("*")):
            if root.name in keep or root.name.startswith("."):
                continue
            try:
                with locked(root.with_name(f".{root.name}.lock"), wait=False):
                    old = root.with_name(f".{root.name}.new")
                    shutil.rmtree(old, ignore_errors=True)
                    root.rename(old)
                    shutil.rmtree(old)
                    gone.add(root.name)
            except BlockingIOError:
                continue
        return gone

    def _root(self, key: str) -> Path:
        return self.cache / "envs" / key

    def _build(self, spec: EnvironmentSpec, interpreter: Interpreter, key: str, lock: int) -> None:
        root, fresh = self._root(key), self._root(f".{key}.new")
        shutil.rmtree(fresh, ignore_errors=True)  # of a builder that was killed
        log = self.cache / "logs" / f"build-{key}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        job = _Job(fresh, interpreter, log, lock, self.time_limit, time.monotonic() + self.time_limit)
        try:
            job.run("venv", "--relocatable", "--python", interpreter.path, str(fresh))
            self.mirror.export(spec.url, spec.commit, fresh / "source")
            own = runner.carried(self.cache, interpreter.abi) if interpreter.abi == _OWN_ABI else None
            job.install([] if own else list(runner.CARRIED), spec.requirements)
            _put_on_path(fresh, root, [runner.runner(self.cache), *([own] if own else [])])
            fresh.rename(root)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


@dataclass(frozen=True)
class _Job:
    """One build: `uv`, run under the guard, into the unfinished environment `fresh`."""

    fresh: Path
    interpreter: Interpreter
    log: Path
    lock: int
    time_limit: float
    end: float

    def install(self, extra: list[str], requirements: str | None) -> None:
        """Install what the person or the repository names, the repository itself, and `extra`."""
        source = self.fresh / "source"
        words = [*self._requirements(source, requirements), *([str(source)] if _installable(source) else []), *extra]
        if words:
            self.run("pip", "install", "--python", str(self.fresh / "bin" / "python"), *words)

    def _requirements(self, source: Path, text: str | None) -> list[str]:
        if text is not None:
            (self.fresh / "requirements.txt").write_text(text)
            return ["--requirement", str(self.fresh / "requirements.txt")]
        if (source / "uv.lock").is_file():
            frozen = str(self.fresh / "requirements.txt")
            self.run("export", "--quiet", "--project", str(source), "--python", self.interpreter.path, "--frozen",
                     "--no-dev", "--no-emit-project", "--output-file", frozen)  # fmt: skip
            return ["--requirement", frozen]
        named = [source / name for name in ("requirements.lock", "requirements.txt")]
        return next((["--requirement", str(file)] for file in named if file.is_file()), [])

    def run(self, *arguments: str) -> None:
        """Run uv with `arguments`; whatever it started is gone afterwards.

        Raises:
            BadInput: E_BUILD.
        """
        watch = [sys.executable, "-I", "-S", guard.__file__, str(max(0.0, self.end - time.monotonic()))]
        at = self.fresh / "source" if (self.fresh / "source").is_dir() else self.log.parent
        with self.log.open("ab") as log:
            # the guard holds the lock as well: whoever builds next waits until this build is really gone
            child = subprocess.Popen(
                [*watch, uv.find_uv_bin(), *arguments], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=at,
                env=surroundings.of_build(), pass_fds=[self.lock], start_new_session=True,
            )  # fmt: skip
            with child:  # leaving closes its standard input, so an interrupt here ends the build
                code = child.wait()
        if code:
            raise self._failed(code)

    def _failed(self, code: int) -> BadInput:
        text = self.log.read_bytes().decode(errors="replace")
        tail = "\n".join(shown(line.replace("\t", "    "), 400) for line in text.splitlines()[-TAIL_LINES:])
        timed_out = code == guard.TIMED_OUT
        what = f"took longer than {self.time_limit:g} s" if timed_out else f"ended with exit code {code}"
        error = BadInput("E_BUILD", f"the build of the environment {what}", at=f"log {self.log}",
                         cure=f"read the log: {self.log}")  # fmt: skip
        error.facts.update(log=tail, path=str(self.log), timeout=timed_out, retry=bool(_PASSING.search(text)))
        return error


def key_of(spec: EnvironmentSpec, interpreter: Interpreter) -> str:
    """The name of the environment: the same for the same files, requirements, interpreter and version of ours.

    The commit stands for the repository's own requirements and lock.
    """
    facts = [spec.url, pinned(spec.commit), spec.requirements, interpreter.path, interpreter.version, runner.version()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def find_interpreter(python: str | None) -> Interpreter:
    """The Python that `python` names.

    Raises:
        BadInput: E_BUILD, this machine has none such.
    """
    if python is None:
        base = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        return Interpreter(base, sys.version.replace("\n", " "), _OWN_ABI)
    path = _said([uv.find_uv_bin(), "python", "find", "--no-project", "--", python], python)
    facts = _said([path, "-I", "-c", _ASK], python).splitlines()
    return Interpreter(path, facts[1], facts[2])


def _said(command: Sequence[str], python: str) -> str:
    done = subprocess.run(command, env=surroundings.of_build(), capture_output=True, text=True, cwd="/", timeout=60)
    if done.returncode:
        what = f"no Python {shown(python)} on this machine"
        raise BadInput.of("E_BUILD", "python", python, what, cure="install it, or name the path of another")
    return done.stdout.strip()


def _installable(source: Path) -> bool:
    """Whether the repository is a package, and not only has settings for some tools."""
    if (source / "setup.py").is_file():
        return True
    import tomllib

    try:
        settings = tomllib.loads((source / "pyproject.toml").read_text())
    except FileNotFoundError:
        return False
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return True  # the build says what is wrong with it
    return bool({"build-system", "project"} & settings.keys())


def _put_on_path(fresh: Path, root: Path, ours: Sequence[Path]) -> None:
    """Let the environment find ours and then the repository's files, after all that is installed in it."""
    here = [name for name in ("src", "") if (fresh / "source" / name).is_dir()]
    lines = [*map(str, ours), *(str(root / "source" / name) for name in here)]
    packages = next(fresh.glob("lib/python*/site-packages"))
    (packages / "_pyfi.pth").write_text("".join(f"{line}\n" for line in lines))
