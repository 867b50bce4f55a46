"""Slurm clusters for tests of every folder. A test that kills a daemon or a node starts its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyfi_hpc.box.cluster import Cluster
from pyfi_hpc.box.slurm import SlurmCluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """Three nodes beside each other, each with 8 CPUs and 4 GPUs; `slurm.clear()` ends the jobs of a test."""
    with SlurmCluster(nodes=3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_accounting() -> Iterator[SlurmCluster]:
    """The same with slurmdbd: account `lab`, QOS `high` that preempts `normal`, sacct."""
    with SlurmCluster(nodes=3, accounting=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three nodes beside each other with GPUs that NVML sees, RabbitMQ and Postgres with our schema."""
    with Cluster(nodes=3) as made:
        yield made
