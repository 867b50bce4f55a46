"""git as a child process that runs no foreign code, asks nobody and ends in time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyfi_hpc.envs.address import SCHEMES
from pyfi_hpc.errors import BadInput, PyfiError, Unavailable

TIME_LIMIT_SECONDS = 600.0

SETTINGS = (
    "protocol.ext.allow=never",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "http.followRedirects=false",
    "transfer.bundleURI=false",
    "fetch.recurseSubmodules=false",
    "fetch.unpackLimit=1",  # always one pack: its size is what the limit bounds
    "gc.auto=0",
    "maintenance.auto=false",
)
# Source: git rev-parse --local-env-vars; set when we run inside somebody's hook
_LOCAL = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_TEMPLATE_DIR",
    "GIT_EXTERNAL_DIFF", "GIT_TRACE", "GIT_PROXY_COMMAND",
)  # fmt: skip


class GitFailed(Exception):
    """git ended with a failure; `words` is what it said, without logins."""

    def __init__(self, status: int, words: str) -> None:
        self.status, self.words = status, re.sub(r"//[^/@\s]*@", "//***@", words).strip()
        super().__init__(f"git ended with {status}: {self.words}")


def run(
    *arguments: str,
    at: Path | None = None,
    url: str | None = None,
    given: bytes | None = None,
    max_bytes: int | None = None,
    time_limit: float = TIME_LIMIT_SECONDS,
) -> bytes:
    """What git printed. `url` is the only address it may talk to, `max_bytes` the largest file it may write.

    Raises:
        GitFailed: it ended with a failure.
        Unavailable: E_TIMEOUT, it did not end within `time_limit` seconds.
    """
    command = [*_without(_LOCAL), *_bounded(max_bytes), "git"]
    command += [word for setting in SETTINGS for word in ("-c", setting)]
    if at is not None:
        command.append(f"--git-dir={at}")
    child = _start([*command, *arguments], protocols(url) if url else "", given is not None)
    try:
        printed, said = child.communicate(given, timeout=time_limit)
    except subprocess.TimeoutExpired as error:
        raise Unavailable("E_TIMEOUT", f"git took longer than {time_limit:g} s", at=url, retry=True) from error
    finally:
        _end(child)
    if child.returncode:
        raise GitFailed(child.returncode, said.decode(errors="replace"))
    return bytes(printed)


def protocols(url: str) -> str:
    """What GIT_ALLOW_PROTOCOL must be for `url`: its own scheme, and the one that git's `insteadOf` makes of it."""
    rewritten = run("ls-remote", "--get-url", "--", url).decode().strip()
    schemes = {_scheme(url), _scheme(rewritten)}
    if not schemes <= SCHEMES:
        raise BadInput.of("E_REPO_SCHEME", "gitrepo", url, "git's insteadOf turns it into a transport we never use")
    return ":".join(sorted(schemes))


def _scheme(url: str) -> str:
    if "::" in url.split("/")[0]:
        return url.split("::")[0]
    if "://" in url:
        return url.split("://")[0].lower()
    return "ssh" if ":" in url.split("/")[0] else "file"


def _without(names: Sequence[str]) -> list[str]:
    return ["env", *(word for name in names if name in os.environ for word in ("-u", name))]


def _bounded(max_bytes: int | None) -> list[str]:
    return [] if max_bytes is None else ["prlimit", f"--fsize={max_bytes}", "--core=0"]


def _start(command: list[str], allowed: str, talks: bool) -> subprocess.Popen[bytes]:
    surroundings = {
        "GIT_ALLOW_PROTOCOL": allowed,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS_REQUIRE": "never",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_LFS_SKIP_SMUDGE": "1",
    }
    # outside every repository, so that none's own settings count; a session of its own has no terminal to ask on
    options: dict[str, Any] = {"start_new_session": True}
    if talks:
        options["istream"] = subprocess.PIPE
    # where an environment is there, and so in most starts of an agent, nothing of git is needed
    from git.cmd import Git

    process = Git("/").execute(command, as_process=True, env=surroundings, **options)
    child: subprocess.Popen[bytes] = process.proc
    process.proc = None  # ours to end
    return child


def _end(child: subprocess.Popen[bytes]) -> None:
    """Nothing of the child's session runs any more."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


_CAUSES = (
    (r"dubious ownership", "E_REPO_DENIED", "the folder belongs to another user, so git refuses it",
     "git config --global --add safe.directory FOLDER"),
    (r"transport '.*' not allowed", "E_REPO_SCHEME", "git was sent to another transport", None),
    (r"redirect|error: 30\d", "E_REPO_URL", "the address redirects, which is not followed",
     "write the address that it leads to, often the same with .git"),
    (r"Authentication failed|could not read (Username|Password)|Permission denied|error: 40[13]|publickey",
     "E_DENIED", "the repository asks for a login", "set up git's credential helper or an ssh key for it"),
    (r"does not appear to be a git repo|not found|not exported|does not exist|No such file",
     "E_REPO_URL", "no repository is at this address", None),
)  # fmt: skip


def cause(url: str, failure: GitFailed) -> PyfiError:
    """What a caller is told about `failure`; a host that does not answer is Unavailable, with `retry` true."""
    for pattern, code, what, cure in _CAUSES:
        if re.search(pattern, failure.words):
            return BadInput.of(code, "gitrepo", url, what, cure=cure)
    last = failure.words.splitlines()[-1] if failure.words else f"git ended with {failure.status}"
    what = f"the repository's host does not answer: {last}"
    return Unavailable("E_COMMIT_UNAVAILABLE", what, at=f"gitrepo {url}", retry=True)
