"""`pyfi verify`: is the record what was promised?"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyfi_hpc.cli.command import Command
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.params import Seconds
from pyfi_hpc.errors import BadInput, WaitTimeout

if TYPE_CHECKING:
    from pyfi_hpc.verify import Report

#: Between two checks, while calls are under way.
AGAIN_SECONDS = 1.0


@click.command(
    cls=Command,
    examples=(
        "pyfi verify",
        "pyfi verify --accepted ids.txt",
        "pyfi verify --timeout 5m",
        "pyfi -d postgresql://ana@db/pyfi verify --accepted ids.txt",
    ),
)
@click.option(
    "--accepted",
    type=click.Path(path_type=Path),
    help="File of the ids that were accepted, as PYFI_ACCEPTED_LOG wrote it; else all in the record.",
)
@click.option(
    "--strict", is_flag=True, help="Ask that nothing is under way, and no call or hold row waits for its time."
)
@click.option("--timeout", type=Seconds(), default=0.0, help="Check again, for so long, while calls are under way.")
@pass_platform
def verify(platform: Platform, accepted: Path | None, strict: bool, timeout: float) -> None:
    """Check that every accepted call has exactly one outcome; changes nothing.

    Run it when all is quiet: while calls are queued or run, not all can be said of them (exit code 4), or with --strict
    it is a breach (5). Calls that are to start later, delayed ones and those to be tried again, are counted, and are no
    breach; nor are hold rows that go at such a time, their call being decided already.
    """
    from pyfi_hpc import postgres
    from pyfi_hpc import verify as checker
    from pyfi_hpc.agent.service import host_name
    from pyfi_hpc.db.engine import database_errors

    ids = _ids(accepted) if accepted else None
    blobs = platform.settings.blob_dir
    with database_errors(platform.engine), closing(postgres.opened(platform.database_uri, "pyfi verify")) as connection:
        report = settled(
            lambda: checker.check(connection, ids, broker=platform.broker, blob_dir=blobs, host=host_name()), timeout
        )
    click.echo("\n".join(report.lines))
    if report.unsettled and not strict:
        what = "calls are under way: whether each has one outcome can be said once they have ended"
        raise WaitTimeout("E_TIMEOUT", what, cure="pyfi verify --timeout 5m")
    if not (report.quiet if strict else report.ok):
        click.get_current_context().exit(5)


def settled(check: Callable[[], Report], timeout: float) -> Report:
    """What `check` finds, checked again while calls are under way, for `timeout` seconds at most."""
    until = time.monotonic() + timeout
    while (report := check()).unsettled and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, AGAIN_SECONDS))
    return report


def _ids(path: Path) -> set[bytes]:
    from pyfi_hpc.verify import read_accepted

    try:
        return read_accepted(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput.of("E_NOT_FOUND", "--accepted", str(path), "the list of ids cannot be read") from error
