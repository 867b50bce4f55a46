"""`-o table|wide|json|yaml|name|csv` and its companions: how results reach stdout."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from pyfi_hpc.cli import render
from pyfi_hpc.cli.context import Platform
from pyfi_hpc.cli.params import Choice, Whole
from pyfi_hpc.model.names import checked_choice

F = TypeVar("F", bound=Callable[..., Any])
FORMATS = ("table", "wide", "json", "yaml", "name", "csv")
#: Rows of a table unless --limit or --all says otherwise; scripts get all.
TABLE_ROWS = 100


@dataclass(frozen=True)
class Output:
    """How this command's results are to be shown."""

    form: str = "table"
    columns: tuple[str, ...] = ()
    sort: str | None = None
    header: bool = True
    parsable: bool = False
    limit: int | None = None
    everything: bool = False

    def rows(
        self, rows: Sequence[render.Row], columns: Sequence[str], wide: Sequence[str] = (), *, whole_ids: bool = False
    ) -> None:
        """Print `rows`; `wide` are the columns that a table leaves out unless asked."""
        known = list(dict.fromkeys([*columns, *wide, *(name for row in rows[:1] for name in row)]))
        for name in (*self.columns, *([self.sort.lstrip("-")] if self.sort else [])):
            checked_choice(name, known, "column")
        chosen = self.columns or (columns if self.form == "table" and not self.parsable else (*columns, *wide))
        text = self._text(self._cut(self._sorted(rows)), chosen, whole_ids)
        if text:
            click.echo(text)

    def row(self, row: render.Row) -> None:
        """Print one object: a card for a person, the same as a list of one for a script."""
        if self.form in ("table", "wide") and not self.parsable and not self.columns:
            click.echo(render.as_card(row))
        else:
            self.rows([row], list(row))

    def _text(self, rows: Sequence[render.Row], columns: Sequence[str], whole_ids: bool) -> str:
        if self.parsable:
            return render.as_parsable(rows, columns, self.header)
        if self.form in ("json", "yaml"):
            picked = [{name: row.get(name) for name in self.columns} for row in rows] if self.columns else rows
            return render.as_json(picked) if self.form == "json" else render.as_yaml(picked)
        if self.form == "csv":
            return render.as_csv(rows, columns, self.header)
        if self.form == "name":
            return render.as_names(rows)
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        wide = self.form == "wide"
        return render.as_table(
            rows, columns, header=self.header, width=None if wide else width, whole_ids=wide or whole_ids
        )

    def _sorted(self, rows: Sequence[render.Row]) -> Sequence[render.Row]:
        if not self.sort:
            return rows
        name = self.sort.lstrip("-")
        return sorted(rows, key=lambda row: _order(row.get(name)), reverse=self.sort.startswith("-"))

    def _cut(self, rows: Sequence[render.Row]) -> Sequence[render.Row]:
        default = TABLE_ROWS if self.form in ("table", "wide") and not self.parsable else None
        limit = None if self.everything else self.limit or default
        if limit is None or len(rows) <= limit:
            return rows
        click.echo(f"showing {limit} of {f'{len(rows):,}'.replace(',', ' ')}, --all shows the rest", err=True)
        return rows[:limit]


def say(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Print what a task made: as it is into a pipe or file, with control characters escaped on a terminal."""
    stream = sys.stderr if err else sys.stdout
    click.echo(render.tame(text) if stream.isatty() else text, nl=nl, err=err)


def _order(value: Any) -> tuple[bool, Any]:
    # one column has one type, but for values that are missing: those come last
    plain = render.plain(value)
    return (plain is None, plain if isinstance(plain, int | float | str) else str(plain))


def output_options(command: F) -> F:
    """Give `command` the options of output; it gets them as its argument `out`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        names = ("form", "columns", "sort", "header", "parsable", "limit", "everything")
        given = {name: kwargs.pop(name) for name in names}
        given["columns"] = tuple(name for name in (given["columns"] or "").split(",") if name)
        return command(*args, out=Output(**given), **kwargs)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def _note_form(ctx: click.Context, param: click.Parameter, value: str) -> str:
    platform = ctx.find_object(Platform)
    if platform and value == "json":
        platform.as_json = True
    return value


_OPTIONS = (
    click.option(
        "-o",
        "--output",
        "form",
        type=Choice(FORMATS, "FORMAT"),
        default="table",
        show_default=True,
        is_eager=True,
        callback=_note_form,
        help="How to print.",
    ),
    click.option("--columns", metavar="A,B", help="Only these columns."),
    click.option("--sort", metavar="COLUMN", help="Order by this column; -COLUMN turns it round."),
    click.option("--no-header", "header", flag_value=False, default=True, help="Leave the header out."),
    click.option("--parsable", is_flag=True, help="| between fields, \\ before a | in them."),
    click.option("--limit", type=Whole(1, 10**9), help=f"At most so many rows; tables stop at {TABLE_ROWS}."),
    click.option("--all", "everything", is_flag=True, help="All rows."),
)
