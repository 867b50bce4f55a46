"""Options that several commands have in the same form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pyfi_hpc.cli.params import Choice, Id, Memory, Name, Seconds, Whole
from pyfi_hpc.errors import BadInput
from pyfi_hpc.model.status import PlugRoute, Requested

F = TypeVar("F", bound=Callable[..., Any])

#: The original's objects, by the word that people type.
KINDS = ("queue", "processor", "socket", "plug", "node", "scheduler")


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, shown in this order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


name_option = click.option("-n", "--name", required=True, type=Name(), help="Its name.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")

route_option = click.option(
    "--route", type=Choice(PlugRoute, "ROUTE"), help="auto: by a pipe where both run on one node; broker: never so."
)

#: An object is named as an argument, with -n as in the original, or by its id; `named` makes one of the three.
object_options = together(
    click.argument("target", required=False, metavar="NAME"),
    click.option("-n", "--name", help="The same as NAME."),
    click.option("--id", "ident", type=Id(), help="Its id, in place of the name."),
)

#: A processor is named or given by its id; `one_processor` makes one of the two.
processor_options = together(
    click.option("-pn", "--procname", "procname", help="The processor's name."),
    click.option("-pi", "--procid", "procid", type=Id(), help="The processor's id, in place of its name."),
)

#: What `add` and `update` may say of a processor beside where its code is.
shape_options = together(
    click.option("-t", "--task", "default_task", help="The function that its outlets call unless they name another."),
    click.option("-h", "--host", help="Run it on this host only."),
    click.option("-w", "--workers", type=Whole(1, 100_000), help="How many workers; else a fair share of the cores."),
    click.option("-r", "--retries", type=Whole(0, 1000), help="How often a failed call is tried again."),
    click.option(
        "-rs",
        "--requested-status",
        "requested_status",
        type=Choice(Requested, "STATUS"),
        help="What it is to do from now on.",
    ),
    click.option(
        "-rq",
        "--requirements",
        multiple=True,
        metavar="PACKAGE",
        callback=lambda _ctx, _option, each: "\n".join(each) if each else None,
        help="A package it needs, such as numpy; may be repeated. In place of the repository's requirements.txt.",
    ),
    click.option("-cs", "--cpus", type=Whole(1, 4096), help="Cores of each worker."),
    click.option("--gpus", type=Whole(0, 64), help="GPUs of each worker."),
    click.option("--mem", "mem_mib", type=Memory(), help="Memory of each worker: 512 is MiB, 4G is GiB."),
    click.option("--timeout", "timeout_seconds", type=Seconds(), help="Time limit of each call."),
    click.option("--python", help="The interpreter of its environment, such as 3.12."),
)


def named(target: str | None, name: str | None, ident: Any = None) -> Any:
    """The one name or id that was given.

    Raises:
        BadInput: E_MISSING for none, E_USAGE for several.
    """
    return only({"NAME": target, "--name": name, "--id": ident}, "name")


def one_processor(procname: str | None, procid: Any) -> Any:
    """The processor's name or id, whichever was given."""
    return only({"-pn": procname, "-pi": procid}, "processor")


def only(given: dict[str, Any], field: str) -> Any:
    """The one value of `given` that is there."""
    found = {flag: value for flag, value in given.items() if value is not None}
    if not found:
        raise BadInput("E_MISSING", f"{field} is missing", at=" or ".join(given), field=field)
    if len(found) > 1:
        raise BadInput("E_USAGE", f"only one {field} can be meant", at=" and ".join(found), field=field)
    return next(iter(found.values()))


def changes(**values: Any) -> dict[str, Any]:
    """Only those values that were given."""
    return {name: value for name, value in values.items() if value is not None}


def whole_path(repository: str | None) -> str | None:
    """A repository's address; a folder that is there, such as `.`, by its whole path."""
    if repository and ":" not in repository and Path(repository).is_dir():
        return str(Path(repository).resolve())
    return repository
