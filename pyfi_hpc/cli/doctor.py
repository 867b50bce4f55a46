"""`pyfi doctor`: what is wrong here, and what mends it."""

from __future__ import annotations

import click

from pyfi_hpc.cli.command import Command
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.output import Output, output_options
from pyfi_hpc.cli.params import Choice
from pyfi_hpc.errors import Unavailable

#: As `pyfi_hpc.doctor.AREAS`, which is not imported for `--help`.
AREAS = ("settings", "db", "broker", "network", "slurm", "machine")


@click.command(cls=Command, examples=("pyfi doctor", "pyfi doctor db", "pyfi doctor -o json"))
@click.argument("area", required=False, type=Choice(AREAS, "AREA"))
@output_options
@pass_platform
def doctor(platform: Platform, out: Output, area: str | None) -> None:
    """Check each thing in turn: what was seen, and what mends it.

    AREA limits it to settings, db, broker, network or machine. Exit code 3 where something is in the way of work.
    """
    from pyfi_hpc.doctor import examine
    from pyfi_hpc.doctor.findings import Mark, looked

    found = list(looked("settings", lambda: examine(platform.settings, area)))
    rows = [{"mark": str(line.mark), "check": line.check, "seen": line.seen, "try": line.cure} for line in found]
    out.rows([row | {"status": line.mark.name.lower()} for row, line in zip(rows, found, strict=True)], COLUMNS)
    if any(line.mark is Mark.BAD for line in found):
        click.get_current_context().exit(Unavailable.exit_code)


COLUMNS = ("mark", "check", "seen", "try")
