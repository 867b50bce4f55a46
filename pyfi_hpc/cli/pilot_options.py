"""What `add` and `update` may say of the pilots of a processor: options of `pyfi submit`, by their long names alone."""

from __future__ import annotations

from typing import Any

import click

from pyfi_hpc.cli.sbatch_options import FromTable
from pyfi_hpc.cli.shared import together
from pyfi_hpc.slurm.request.options import OPTIONS

#: The short ones mean something else here, and so do --gpus and --mem: there they are each worker's.
_FIELDS = (
    "partition", "account", "qos", "time_minutes", "nodes", "ntasks", "cpus_per_task", "mem_per_cpu", "gpus_per_node",
    "constraint",
)  # fmt: skip
_PREFIX = "pilot_"

pilot_options = together(
    *(
        click.option(
            option.long, f"{_PREFIX}{option.field}", type=FromTable(option), metavar=option.metavar,
            help=f"Of each pilot that Slurm is sent. {option.meaning}",
        )
        for option in OPTIONS if option.field in _FIELDS
    )
)  # fmt: skip


def with_shape(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with what was asked for pilots as their `shape`, if anything was."""
    shape = {name.removeprefix(_PREFIX): value for name, value in values.items() if name.startswith(_PREFIX)}
    given = {name: value for name, value in shape.items() if value is not None}
    rest = {name: value for name, value in values.items() if not name.startswith(_PREFIX)}
    return rest | ({"shape": given} if given else {})
