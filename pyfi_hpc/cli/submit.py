"""`pyfi submit`: put a pilot into Slurm, in the words of sbatch."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.sbatch_options import TYPED, Submit, asked_for, given_on_line, table_options
from pyfi_hpc.config import Settings
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.status import JobStatus
from pyfi_hpc.slurm.request.asking import Asked
from pyfi_hpc.slurm.request.checks import check, check_folders
from pyfi_hpc.slurm.request.options import OPTIONS
from pyfi_hpc.slurm.request.script import make_submission
from pyfi_hpc.slurm.request.slots import slots, told

if TYPE_CHECKING:
    from pyfi_hpc.db.jobs import Standing
    from pyfi_hpc.slurm.launcher import Launcher, Submission


@click.command(
    cls=Submit,
    examples=(
        "pyfi submit -p main -N 2 -n 8 -t 10 --processor proc1",
        "pyfi submit --gpus-per-node 2 -t 2:00:00 --processor detect setup.sh",
        "pyfi submit -n 4 --processor proc1 --dry-run",
        "pyfi submit -a 0-3 -c 4 --slurm-arg=--reservation=course --processor proc1",
    ),
)
@click.argument("script", required=False, metavar="[SCRIPT]")
@table_options
@click.option(
    "--slurm-arg", "extra", multiple=True, metavar="WORD", help="A further option of sbatch; may be repeated."
)
@click.option("--scheduler", metavar="NAME", help="The scheduler that sends it, where there are several.")
@click.option("--parsable", is_flag=True, help="Print the job's id alone.")
@click.option("-W", "--wait", is_flag=True, help="Wait until the job has ended; exit code 1 if it failed.")
@click.option("--test-only", is_flag=True, help="Ask Slurm whether it would take it, and when it might start.")
@click.option("--dry-run", is_flag=True, help="Print the script, the sbatch line, and where each value comes from.")
@pass_platform
def submit(
    platform: Platform,
    script: str | None,
    extra: tuple[str, ...],
    scheduler: str | None,
    parsable: bool,
    wait: bool,
    test_only: bool,
    dry_run: bool,
    **values: Any,
) -> None:
    """Put a pilot into Slurm: a job whose agents bring workers for a processor.

    The options are those of sbatch. SCRIPT is the site's set-up, which each node runs before its agent; its #SBATCH
    and #PYFI lines count. Command line > #PYFI > SBATCH_* variables > #SBATCH > settings.
    """
    asked = asked_for(platform.settings, script, given_on_line(values, extra))
    processor = _processor(asked)
    check_folders(asked.request)
    launcher = platform.control.launcher
    _check(asked, launcher)
    if not dry_run and not test_only:
        return _send(platform, asked, processor, scheduler, parsable=parsable, wait=wait)
    platform.network.show("processor", processor)
    preview = _preview(asked, platform.settings, launcher)
    return click.echo(_plan(asked, preview) if dry_run else launcher.test(preview))


def _processor(asked: Asked) -> str:
    if asked.processor is None:
        cure = "pyfi submit --processor NAME …, or a line #PYFI --processor=NAME; pyfi ls processors"
        raise BadInput("E_MISSING", "processor is missing", at="pyfi submit --processor", cure=cure, field="processor")
    return asked.processor


def _check(asked: Asked, launcher: Launcher) -> None:
    """Refuse what the cluster can never give. Without Slurm nobody counts cores: workers share them."""
    accounts = launcher.accounts() if asked.request.account else None
    typed = click.get_current_context().meta[TYPED]
    check(asked.request, launcher.partitions(), accounts, typed=typed, cores=launcher.kind != "local")


def _preview(asked: Asked, settings: Settings, launcher: Launcher) -> Submission:
    """What would be submitted, but for the token and with it the name of the file that only its agents can read."""
    state, token = settings.state_dir.absolute(), "0" * 32
    return make_submission(
        asked.request,
        token=token,
        network=settings.agent.network,
        python=settings.slurm.python or sys.executable,
        ini=state / "jobs" / f"{token}.ini",
        step=launcher.step,
        processor_name=asked.processor or "",
        state_dir=state,
    )


def _plan(asked: Asked, submission: Submission) -> str:
    """The finished script, and behind it as comments the sbatch line and where each value comes from."""
    lines = [
        "Submitted by this line, with the script on its standard input; in place of 000… stands a token of its own:"
    ]
    lines += [f"sbatch --parsable {shlex.join(submission.arguments)}", ""]
    lines += [f"{told(asked.request)}. Where each value comes from:"]
    lines += [f"  {word}  {origin}" for word, origin in origins(asked, submission)]
    return submission.script.rstrip("\n") + "\n\n" + "\n".join(f"# {line}".rstrip() for line in lines)


def origins(asked: Asked, submission: Submission) -> Iterator[tuple[str, str]]:
    """(option of the sbatch line, where it comes from), the words all of one width."""
    fields = {each.long: each.field for each in OPTIONS}
    width = min(40, max(map(len, submission.arguments)))
    for word in submission.arguments:
        known = asked.origins.get(word) or asked.origins.get(fields.get(word.partition("=")[0], ""))
        yield word.ljust(width), known or "default"
    for name in ("per", "processor"):
        if name in asked.origins:
            value = asked.request.per if name == "per" else asked.processor
            yield f"--{name}={value}".ljust(width), asked.origins[name]


def _send(
    platform: Platform, asked: Asked, processor: str, scheduler: str | None, *, parsable: bool, wait: bool
) -> None:
    from pyfi_hpc.control import submitting

    request = asked.request
    try:
        record = submitting.submit(
            platform.control, processor=processor, request=request, workers=slots(request), scheduler=scheduler
        )
    except BadInput as error:
        if error.code == "E_NOT_FOUND":
            # asked only now, since it takes longer than all the rest: it knows which name was meant
            platform.network.show("processor", processor)
        raise
    job = record["job"]
    click.echo(job if parsable else f"Submitted job {job} ({told(request)}). pyfi logs -f {job} · pyfi ls jobs")
    if wait:
        _wait(platform, record)


def _wait(platform: Platform, record: dict[str, Any]) -> None:
    """Return once the job has ended well; exit with 1 where it did not."""
    from pyfi_hpc.control import submitting

    job, said = record["job"], [record["status"]]

    def ended(standing: Standing) -> bool:
        if standing.status != said[-1]:
            said.append(standing.status)
            click.echo(f"job {job} {standing.status}{f': {standing.reason}' if standing.reason else ''}", err=True)
        return standing.status is JobStatus.ENDED

    try:
        submitting.until(platform.control, record["token"], ended)
    except KeyboardInterrupt:
        click.echo(f"\nStopped watching. job {job} still {said[-1]}. pyfi logs -f {job} · pyfi cancel {job}", err=True)
        click.get_current_context().exit(130)
    if platform.network.show("job", record["token"])["exit_code"] != "0:0":
        click.get_current_context().exit(1)
