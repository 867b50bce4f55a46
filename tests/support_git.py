"""Real git repositories for tests, made from a mapping of paths to texts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

IDENTITY = {
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
}


def git(path: Path, *arguments: str, given: bytes | None = None) -> str:
    """What `git -C path …` printed, without the line end."""
    command = ["git", "-C", str(path), "-c", "commit.gpgsign=false", *arguments]
    done = subprocess.run(command, input=given, env=os.environ | IDENTITY, capture_output=True, check=True)
    return done.stdout.decode().strip()


def make_repository(path: Path, files: Mapping[str, str]) -> tuple[str, str]:
    """A new repository at `path` with `files` committed on `main`; its `file:` address and the commit."""
    path.mkdir(parents=True)
    git(path, "init", "-q", "-b", "main")
    return f"file://{path}", commit_files(path, files)


def commit_files(path: Path, files: Mapping[str, str]) -> str:
    """Commit `files` on top; the new commit."""
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    git(path, "add", "-A", "-f")
    git(path, "commit", "-q", "--allow-empty", "-m", "A commit of the tests")
    return git(path, "rev-parse", "HEAD")
