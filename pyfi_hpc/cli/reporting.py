"""Errors as a person or a script reads them on stderr, and the exit code of each."""

from __future__ import annotations

import json
import sys
import traceback

import click

from pyfi_hpc.errors import BadInput, Fault, PyfiError, shown

#: Exit codes, as `pyfi --help` and the docs list them.
EXIT_CODES = {
    0: "done",
    1: "the work ended FAILED, DEAD or CANCELLED",
    2: "refused: usage or bad input, nothing changed",
    3: "a service cannot be reached, try again",
    4: "the timeout passed, the work goes on",
    5: "a fault of pyfi itself",
    130: "interrupted",
}


def report(error: BaseException, *, debug: bool = False, as_json: bool = False) -> int:
    """Print `error` on stderr and return its exit code."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        click.echo("pyfi: interrupted", err=True)
        return 130
    known = known_error(error)
    if debug:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    click.echo(json.dumps(as_record(known), ensure_ascii=False) if as_json else as_text(known), err=True)
    return known.exit_code


def known_error(error: BaseException) -> PyfiError:
    """`error` as one of ours."""
    if isinstance(error, PyfiError):
        return error
    if isinstance(error, click.UsageError):
        return _usage(error)
    if isinstance(error, click.ClickException):
        return BadInput("E_USAGE", error.format_message())
    from pyfi_hpc.config.kinds import masked

    said = " ".join(str(error).split())
    again = [masked(word) for word in sys.argv[1:] if word != "--debug"]
    what = f"{type(error).__name__}: {shown(said, 200)}"
    # once it has been asked for, the traceback stands above
    cure = None if len(again) < len(sys.argv) - 1 else f"pyfi --debug {' '.join(map(shown, again))}"
    return Fault("E_INTERNAL", what, at=_place(error), cure=cure)


def _place(error: BaseException) -> str | None:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename} line {frames[-1].lineno}" if frames else None


def as_text(error: PyfiError) -> str:
    """`pyfi: what (E_CODE)` and, each on its own line, the place and the cure."""
    return f"pyfi: {error}"


def as_record(error: PyfiError) -> dict[str, object]:
    """The same fields for a script; only ever added to."""
    found = {"code": error.code, "what": error.what, "at": error.at, "try": error.cure, "exit_code": error.exit_code}
    return {"version": 1, "error": found}


def _usage(error: click.UsageError) -> BadInput:
    path = error.ctx.command_path if error.ctx else "pyfi"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        flags = (
            ", ".join(error.param.opts) if isinstance(error.param, click.Option) else error.param.human_readable_name
        )
        name = error.param.name or flags
        return BadInput("E_MISSING", f"{name} is missing", at=f"{path} {flags}", cure=f"{path} --help", field=name)
    if isinstance(error, click.NoSuchOption):
        cure = f"did you mean {error.possibilities[0]}?" if error.possibilities else f"{path} --help"
        what = f"no option {shown(error.option_name)}"
        return BadInput("E_USAGE", what, at=path, cure=cure, field="option", value=error.option_name)
    return BadInput("E_USAGE", error.format_message().rstrip("."), at=path, cure=f"{path} --help")
