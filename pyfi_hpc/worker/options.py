"""The command line of a worker: the words of its agent."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Options(NamedTuple):
    """What a worker is started with: two descriptors, the agent's pid, and what to run where."""

    fd: int
    progress_fd: int
    parent: int
    module: str
    cores: frozenset[int]
    blobs: Path
    max_value_bytes: int
    blob_quota_bytes: int


def parsed(words: Sequence[str]) -> Options:
    """The options; ends the process with status 2 where they make no sense."""
    parser = argparse.ArgumentParser(prog="pyfi_hpc.worker", allow_abbrev=False)
    parser.add_argument("--fd", type=int, required=True, help="the socket to the agent")
    parser.add_argument("--progress-fd", type=int, required=True, help="memory shared with the agent")
    parser.add_argument("--parent", type=int, required=True, help="the agent's pid")
    parser.add_argument("--module", required=True)
    parser.add_argument("--cores", type=_cores, default=frozenset(), help="core numbers with commas; empty: any")
    parser.add_argument("--blobs", type=Path, required=True)
    parser.add_argument("--max-value-bytes", type=int, default=1 << 30)
    parser.add_argument("--blob-quota-bytes", type=int, default=0)
    return Options(**vars(parser.parse_args(words)))


def _cores(text: str) -> frozenset[int]:
    return frozenset(int(core) for core in text.split(",") if core)
