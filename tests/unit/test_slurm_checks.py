"""What is refused before it is queued, with what can be had and a command that would do."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.slurm.launcher import Partition
from pyfi_hpc.slurm.request.checks import check, check_folders

MAIN = Partition("main", True, True, nodes=3, cpus_per_node=8, mem_mib_per_node=4000, gpus_per_node=0, max_minutes=None)
GPU = Partition("gpu", False, True, nodes=4, cpus_per_node=32, mem_mib_per_node=64_000, gpus_per_node=8, max_minutes=60)


def refusal(
    typed: Sequence[str] = ("train.sh",), partitions: Sequence[Partition] = (MAIN, GPU), **values: Any
) -> BadInput:
    with pytest.raises(BadInput) as caught:
        check(ResourceRequest(**values), partitions, {"lab", "guests"}, typed=typed)
    return caught.value


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"ntasks": 24, "nodes": 3},
        {"partition": "gpu", "gpus_per_node": "8", "nodes": 4, "time_minutes": 60},
        {"partition": "main,gpu", "gpus": "2"},
        {"time_minutes": 0},
        {"account": "lab", "mem": "0"},
        {"mem_per_cpu": "500M", "ntasks": 8},
    ],
)
def test_what_can_be_had_some_day_passes(values: dict[str, Any]) -> None:
    check(ResourceRequest(**values), [MAIN, GPU], {"lab"})


def test_more_gpus_than_any_node_has_are_refused_with_the_maximum_and_a_command() -> None:
    assert str(refusal(partition="gpu", gpus_per_node="12")) == (
        "12 GPUs on one node cannot be had (E_UNSATISFIABLE)\n"
        "  at:  --gpus-per-node 12     most in 'gpu': 8\n"
        "  try: pyfi submit -N 2 --gpus-per-node 6 train.sh"
    )


@pytest.mark.parametrize(
    ("values", "at", "cure"),
    [
        ({"gpus": "12"}, "--gpus 12     most in 'gpu': 8", "pyfi submit -N 2 --gpus 12"),
        ({"gres": "gpu:h100:9"}, "--gres gpu:h100:9     most in 'gpu': 8", "pyfi submit -N 3 --gres gpu:h100:3"),
        ({"gpus_per_node": "h100:10", "nodes": 2}, "--gpus-per-node h100:10     most in 'gpu': 8",
         "pyfi submit -N 4 --gpus-per-node h100:5"),
        ({"gpus_per_node": "64"}, "--gpus-per-node 64     most in 'gpu': 8", "sinfo shows what there is"),
        ({"ntasks": 64}, "-n 64     most in 'gpu': 32 cores a node", "pyfi submit -N 2 -n 64"),
        ({"ntasks": 3, "cpus_per_task": 20}, "-n 3     most in 'gpu': 32 cores a node", "pyfi submit -N 3 -n 3"),
        ({"cpus_per_task": 64}, "-c 64     most in 'gpu': 32 cores a node", "pyfi submit -c 32"),
        ({"nodes": 9}, "-N 9     most in 'gpu': 4", "sinfo shows what there is"),
        ({"mem": "100G"}, "--mem 100G     most in 'gpu': 64000 MiB a node", "pyfi submit --mem 64000"),
        ({"mem_per_cpu": "16G", "ntasks": 8}, "--mem-per-cpu 16G     most in 'gpu': 64000 MiB a node",
         "pyfi submit --mem-per-cpu 8000"),
        ({"time_minutes": 120}, "--time 02:00:00     most in 'gpu': 01:00:00", "pyfi submit -t 01:00:00"),
        ({"time_minutes": 0}, "--time UNLIMITED     most in 'gpu': 01:00:00", "pyfi submit -t 01:00:00"),
    ],
)  # fmt: skip
def test_each_limit_is_told_with_what_would_do(values: dict[str, Any], at: str, cure: str) -> None:
    error = refusal(typed=(), partition="gpu", partitions=(GPU,), **values)
    assert (error.code, error.at, error.cure) == ("E_UNSATISFIABLE", at, cure)


def test_a_partition_that_has_none_leads_to_one_that_has() -> None:
    assert refusal(gpus_per_node="2").cure == "pyfi submit -p gpu train.sh"


@pytest.mark.parametrize(
    "typed", ["--gpus-per-node 12 -N 1 --wait 'a b.sh'", "--gpus-per-node=12 -N1 --wait 'a b.sh'", "--wait 'a b.sh'"]
)
def test_the_command_that_would_do_keeps_what_else_was_typed(typed: str) -> None:
    error = refusal(shlex.split(typed), partition="gpu", gpus_per_node="12")
    assert error.cure == "pyfi submit -N 2 --gpus-per-node 6 --wait 'a b.sh'"


def test_cores_that_are_shared_are_not_counted() -> None:
    check(ResourceRequest(ntasks=99, cpus_per_task=9), [MAIN], None, cores=False)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    assert refusal(partition="gpuu").cure == "did you mean 'gpu'?"
    assert refusal(partition="main,xyz").what == "no partition 'xyz'"
    assert refusal(account="labs").cure == "did you mean 'lab'?"
    assert refusal(account="q").cure == "one of guests, lab"


def test_an_account_is_not_judged_where_nobody_keeps_accounts() -> None:
    check(ResourceRequest(account="any"), [MAIN], None)


def test_a_partition_must_be_named_where_slurm_has_no_default() -> None:
    assert refusal(partitions=(GPU,)).code == "E_MISSING"


def test_folders_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    check_folders(ResourceRequest(chdir=str(tmp_path), output="out/%j.out", error=f"{tmp_path}/%u/e"))
    with pytest.raises(BadInput, match="E_NOT_FOUND") as caught:
        check_folders(ResourceRequest(chdir=str(tmp_path), output="outt/%j.out"))
    assert caught.value.cure == f"mkdir -p {tmp_path}/outt"
    with pytest.raises(BadInput, match="E_NOT_FOUND"):
        check_folders(ResourceRequest(chdir=str(tmp_path / "none")))
