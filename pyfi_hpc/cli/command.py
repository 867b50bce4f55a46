"""Commands and groups of ours: examples in the help, groups that import a command only when it is used."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import click

from pyfi_hpc.errors import BadInput, shown
from pyfi_hpc.model.names import nearest

#: -h means host in the original's commands, so help is only --help
HELP = {"help_option_names": ["--help"], "max_content_width": 100}
_NEGATIVE = re.compile(r"-\.?[0-9]")


class Command(click.Command):
    """A command whose help shows examples; a test parses each of them."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", HELP)
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if not _NEGATIVE.match(error.option_name):
                raise
            raise _negative(ctx, given, error.option_name) from error

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def _negative(ctx: click.Context, args: list[str], option: str) -> BadInput:
    """Refuse a negative number that was taken for an option, with the line that says it is none."""
    at = next((place for place, word in enumerate(args) if word.startswith(option)), 0)
    before, after = args[:at], args[at:]
    cure = shown(f"{ctx.command_path} {shlex.join([*before, '--', *after])}", 200)
    if any(word.startswith("-") and not _NEGATIVE.match(word) for word in after):
        cure = f"{ctx.command_path} OPTIONS… -- {after[0]}: options first, then -- and all that is no option"
    what = f"{shown(after[0])} is read as an option"
    return BadInput("E_USAGE", what, at=ctx.command_path, cure=cure, field="option", value=option)


class Group(click.Group):
    """A group that knows its commands by name and first line, and imports one when it is used.

    `lazy` maps a name to ("module:attribute", first line of its help); `aliases` an old or plural name to a name;
    `meant` a word that people try, and that is no command, to the commands that do it.
    """

    command_class = Command

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]] | None = None,
        aliases: Mapping[str, str] | None = None,
        meant: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("context_settings", HELP)
        kwargs.setdefault("no_args_is_help", False)
        kwargs.setdefault("invoke_without_command", True)
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy or {})
        self.aliases = dict(aliases or {})
        self.meant = dict(meant or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.lazy, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = self.aliases.get(cmd_name, cmd_name)
        if name in self.lazy:
            module, _, attribute = self.lazy[name][0].partition(":")
            found: click.Command = getattr(importlib.import_module(module), attribute)
            return found
        return super().get_command(ctx, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise self._unknown(ctx, args[0])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self._first_line(name)) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, or show the help and succeed where none is named."""
        # click keeps the names it has not used yet here until 9.0; both spellings are its own
        if not (ctx._protected_args or ctx.args) and not self.does_alone(ctx):
            click.echo(ctx.get_help())
            ctx.exit(0)
        return super().invoke(ctx)

    def does_alone(self, ctx: click.Context) -> bool:
        """True when the group by itself does something in this context."""
        return False

    def _first_line(self, name: str) -> str:
        return self.lazy[name][1] if name in self.lazy else self.commands[name].get_short_help_str(limit=1000)

    def _unknown(self, ctx: click.Context, name: str) -> BadInput:
        near = nearest(name, [*self.list_commands(ctx), *self.aliases])
        cure = self.meant.get(name) or f"{ctx.command_path} {near or '--help'}"
        what = f"no command {shown(name)!r}"
        return BadInput("E_USAGE", what, at=f"{ctx.command_path} {shown(name)}", cure=cure, field="command", value=name)
