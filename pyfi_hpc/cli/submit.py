"""`pyfi submit`: put a pilot into Slurm, in the words of sbatch."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyfi_hpc.cli.command import Command
from pyfi_hpc.cli.context import Platform, pass_platform
from pyfi_hpc.cli.params import flag
from pyfi_hpc.cli.shared import together
from pyfi_hpc.config import Settings
from pyfi_hpc.errors import BadInput
from pyfi_hpc.slurm.asking import Asked, settled
from pyfi_hpc.slurm.checks import check, check_folders
from pyfi_hpc.slurm.options import (
    OPTIONS,
    OURS,
    Given,
    Option,
    checked_extra,
    from_environment,
    unknown,
)
from pyfi_hpc.slurm.reading import script_from
from pyfi_hpc.slurm.sbatch import PASSED, REFUSED, SHORT
from pyfi_hpc.slurm.script import make_submission
from pyfi_hpc.slurm.slots import slots, told

if TYPE_CHECKING:
    from pyfi_hpc.db.jobs import Standing
    from pyfi_hpc.slurm.launcher import Launcher, Submission

    _Kind = click.ParamType[Any]
else:
    _Kind = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])
LINE = "command line"


class Submit(Command):
    """The command, which tells of an option that sbatch alone has what to do with it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _foreign(error.option_name) from error


def _foreign(name: str) -> BadInput:
    long = SHORT.get(name, name)
    if long in REFUSED:
        return BadInput.of("E_USAGE", "pyfi submit", name, f"a pilot cannot have {name}", cure=REFUSED[long])
    if long in PASSED:
        what = f"{name} is an option of sbatch that pyfi does not read"
        return BadInput.of("E_USAGE", "pyfi submit", name, what, cure=f"--slurm-arg={long}… passes it on, in one word")
    return unknown(name, "pyfi submit", "E_USAGE")


class FromTable(_Kind):
    """The value of an option of the table."""

    def __init__(self, option: Option) -> None:
        self.option, self.name = option, option.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.option.convert(value, flag(param)) if isinstance(value, str) else value


def _as_option(option: Option) -> Callable[[F], F]:
    flags = "/".join(each.long for each in OPTIONS if each.field == option.field and each.constant is not None)
    if flags:
        return click.option(flags, _name(option), default=None, help=option.meaning)
    return click.option(
        *option.flags, _name(option), type=FromTable(option), metavar=option.metavar, help=option.meaning
    )


def _name(option: Option) -> str:
    return option.long.removeprefix("--").replace("-", "_")


#: The options of the table; `given_on_line` takes back what they give.
table_options = together(*(_as_option(option) for option in [*OPTIONS, *OURS] if option.constant is not False))


def given_on_line(values: dict[str, Any], extra: tuple[str, ...]) -> Iterator[Given]:
    """What the options of the command line ask for."""
    for option in [*OPTIONS, *OURS]:
        value = values.get(_name(option))
        if value is not None:
            yield Given(option.field, value, LINE)
    for word in extra:
        yield Given("extra", checked_extra(word), LINE)


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
    check(asked.request, launcher.partitions(), launcher.accounts() if asked.request.account else None, script=script)
    platform.network.show("processor", processor)
    if dry_run:
        click.echo(_plan(asked, _preview(asked, platform.settings, launcher)))
    elif test_only:
        click.echo(launcher.test(_preview(asked, platform.settings, launcher)))
    else:
        _send(platform, asked, processor, scheduler, parsable=parsable, wait=wait)


def asked_for(settings: Settings, script: str | None, line: Iterator[Given]) -> Asked:
    """What settings, script, variables and command line come to; folders are whole.

    Raises:
        BadInput: as soon as one of them cannot be understood.
    """
    on_line = list(line)
    read = script_from(script) if script else None
    places = [
        _from_settings(settings),
        read.sbatch if read else (),
        from_environment(os.environ),
        read.pyfi if read else (),
        on_line,
    ]
    asked = settled(places, read.setup if read else "")
    return replace(asked, request=replace(asked.request, chdir=str(Path(asked.request.chdir or ".").absolute())))


def _from_settings(settings: Settings) -> Iterator[Given]:
    yield Given("chdir", os.getcwd(), "where you are")
    for name in ("partition", "account"):
        if value := settings.value(f"slurm.{name}"):
            yield Given(name, value, f"slurm.{name} of {settings.origins.get(f'slurm.{name}', 'default')}")


def _processor(asked: Asked) -> str:
    if asked.processor is None:
        cure = "pyfi submit --processor NAME …, or a line #PYFI --processor=NAME; pyfi ls processors"
        raise BadInput("E_MISSING", "processor is missing", at="pyfi submit --processor", cure=cure, field="processor")
    return asked.processor


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
    lines = ["# sbatch line, with the script on its standard input; the job's own token stands in the place of 000…:"]
    lines += [f"sbatch {shlex.join(submission.arguments)}", "", f"{told(asked.request)}. Where each value comes from:"]
    lines += [f"  {word}  {origin}" for word, origin in origins(asked, submission)]
    return submission.script.rstrip("\n") + "\n\n" + "\n".join(f"# {line}".rstrip() for line in lines)


def origins(asked: Asked, submission: Submission) -> Iterator[tuple[str, str]]:
    """(option of the sbatch line, where it comes from), the words all of one width."""
    fields = {each.long: each.field for each in OPTIONS}
    width = max(len(word) for word in submission.arguments)
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
    record = submitting.submit(
        platform.control, processor=processor, request=request, workers=slots(request), scheduler=scheduler
    )
    job = record["job"]
    click.echo(job if parsable else f"Submitted job {job} ({told(request)}). pyfi logs -f {job} · pyfi ls jobs")
    if wait:
        _wait(platform, record)


def _wait(platform: Platform, record: dict[str, Any]) -> None:
    """Return once the job has ended well; exit with 1 where it did not."""
    from pyfi_hpc.control import submitting
    from pyfi_hpc.model.status import JobStatus

    job, said = record["job"], record["status"]

    def ended(standing: Standing) -> bool:
        nonlocal said
        if standing.status != said:
            said = standing.status
            click.echo(f"job {job} {said}{f': {standing.reason}' if standing.reason else ''}", err=True)
        return standing.status is JobStatus.ENDED

    try:
        submitting.until(platform.control, record["token"], ended)
    except KeyboardInterrupt:
        click.echo(f"\nStopped watching. job {job} still {said}. pyfi logs -f {job} · pyfi cancel {job}", err=True)
        click.get_current_context().exit(130)
    found = platform.network.show("job", job)
    if found["exit_code"] != "0:0":
        click.echo(f"pyfi: job {job} ended {found['reason'] or found['state']}  pyfi logs {job}", err=True)
        click.get_current_context().exit(1)
