"""Parsl's side, run in its own environment: a block on Slurm, one call, its result printed. Argument: a folder."""

from __future__ import annotations

import sys

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import SlurmProvider


@parsl.python_app  # type: ignore[untyped-decorator]
def double(x: int) -> int:
    """Twice x."""
    return x * 2


def main() -> None:
    """One worker on one node, everything else as Parsl has it."""
    provider = SlurmProvider(
        partition="main", nodes_per_block=1, cores_per_node=1, mem_per_node=1, init_blocks=1, max_blocks=1,
        exclusive=False, walltime="00:10:00",
    )  # fmt: skip
    executor = HighThroughputExecutor(label="bench", address="127.0.0.1", max_workers_per_node=1, provider=provider)
    with parsl.load(Config(executors=[executor], run_dir=sys.argv[1])):
        print(double(21).result(), flush=True)


if __name__ == "__main__":
    main()
