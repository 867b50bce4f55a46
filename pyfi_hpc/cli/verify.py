"""`pyfi verify`: is the record what was promised?"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from pyfi_hpc.cli.command import Command
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.errors import BadInput


@click.command(
    cls=Command,
    examples=(
        "pyfi verify",
        "pyfi verify --accepted ids.txt",
        "pyfi verify --strict",
        "pyfi -d postgresql://ana@db/pyfi verify --accepted ids.txt",
    ),
)
@click.option(
    "--accepted",
    type=click.Path(path_type=Path),
    help="File of the ids that were accepted, as PYFI_ACCEPTED_LOG wrote it; else all in the record.",
)
@click.option(
    "--strict", is_flag=True, help="Ask that no call or hold row waits for its time either, such as a delayed one."
)
@pass_platform
def verify(platform: Platform, accepted: Path | None, strict: bool) -> None:
    """Check that every accepted call has exactly one outcome; changes nothing.

    Run it when all is quiet: what is still queued or runs is reported. Calls that are to start later, delayed ones and
    those to be tried again, are counted, and are no breach; nor are hold rows that go at such a time, their call being
    decided already.
    """
    from pyfi_hpc import postgres
    from pyfi_hpc import verify as checker
    from pyfi_hpc.agent.service import host_name
    from pyfi_hpc.db.engine import database_errors

    ids = _ids(accepted) if accepted else None
    blobs = platform.settings.blob_dir
    with database_errors(platform.engine), closing(postgres.opened(platform.database_uri, "pyfi verify")) as connection:
        report = checker.check(connection, ids, broker=platform.broker, blob_dir=blobs, host=host_name())
    click.echo("\n".join(report.lines))
    if not (report.quiet if strict else report.ok):
        click.get_current_context().exit(5)


def _ids(path: Path) -> set[bytes]:
    from pyfi_hpc.verify import read_accepted

    try:
        return read_accepted(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput.of("E_NOT_FOUND", "--accepted", str(path), "the list of ids cannot be read") from error
