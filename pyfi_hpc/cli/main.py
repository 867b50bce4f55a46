"""`pyfi`: the global options, the list of commands, and the one place where errors become lines and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pyfi_hpc.cli.command import Group
from pyfi_hpc.cli.reporting import EXIT_CODES, report

#: Name -> where the command is, and the first line of its help; nothing is imported for `--help`.
COMMANDS = {
    "add": ("pyfi_hpc.cli.add:add", "Add an object to the network."),
    "agent": ("pyfi_hpc.cli.agent:agent", "Serve a node: start workers, hand them calls."),
    "call": ("pyfi_hpc.cli.call:call", "Run one invocation and print its value; arguments are JSON."),
    "cancel": (
        "pyfi_hpc.cli.invocations:cancel",
        "Cancel invocations that are not decided yet, or jobs; what runs is stopped.",
    ),
    "config": ("pyfi_hpc.cli.config:config", "See, check and store settings."),
    "db": ("pyfi_hpc.cli.db:db", "Make the database ready, bring it up to date, or drop what is in it."),
    "dead": ("pyfi_hpc.cli.dead:dead", "Look at dead invocations, requeue or drop them."),
    "delete": ("pyfi_hpc.cli.objects:delete", "Delete an object that nothing depends on."),
    "demo": ("pyfi_hpc.cli.demo:demo", "Run real work on this machine, kill a worker, and check that no call is lost."),
    "forget": ("pyfi_hpc.cli.forget:forget", "Clear the values of invocations for good; their ids stay used."),
    "doctor": ("pyfi_hpc.cli.doctor:doctor", "Check each thing in turn: what was seen, and what mends it."),
    "local": ("pyfi_hpc.cli.local:local", "The service of this machine: Postgres and an agent, in the background."),
    "logs": (
        "pyfi_hpc.cli.invocations:logs",
        "Print what an invocation's attempts, or a job, have printed.",
    ),
    "ls": ("pyfi_hpc.cli.objects:ls", "List objects."),
    "node": ("pyfi_hpc.cli.node:node", "Take a node out of service, or back into it."),
    "proc": ("pyfi_hpc.cli.proc:proc", "Run or manage processors."),
    "ps": (
        "pyfi_hpc.cli.invocations:ps",
        "Show the workers that are there, or all that is on record of one invocation.",
    ),
    "queue": ("pyfi_hpc.cli.queue:queue", "Look into a queue, or empty it."),
    "scheduler": (
        "pyfi_hpc.cli.scheduler:scheduler",
        "Manage schedulers: they place workers and send pilots into Slurm.",
    ),
    "show": ("pyfi_hpc.cli.objects:show", "Show all of one object."),
    "submit": (
        "pyfi_hpc.cli.submit:submit",
        "Put a pilot into Slurm: a job whose agents bring workers for a processor.",
    ),
    "task": ("pyfi_hpc.cli.call:task", "Run tasks, by the original's name."),
    "update": ("pyfi_hpc.cli.update:update", "Change an object of the network."),
    "verify": (
        "pyfi_hpc.cli.verify:verify",
        "Check that every accepted call has exactly one outcome; changes nothing.",
    ),
    "wait": (
        "pyfi_hpc.cli.invocations:wait",
        "Wait for invocations and print their values, each on its line; exit code 1 if one has none.",
    ),
    "whoami": ("pyfi_hpc.cli.whoami:whoami", "Show who you are to the database, and which services are meant."),
}

#: Words that people try here.
MEANT = {
    "status": "pyfi local status, pyfi ps (the workers), or pyfi ps ID (one call)",
    "start": "pyfi local start, or pyfi proc start NAME",
    "stop": "pyfi local stop, or pyfi proc stop NAME",
    "run": "pyfi call SOCKET ARGS",
    "result": "pyfi wait ID",
    "version": "pyfi --version",
    "help": "pyfi --help",
}


class Root(Group):
    """The command `pyfi` itself."""

    def does_alone(self, ctx: click.Context) -> bool:
        return bool(ctx.params.get("config"))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


@click.group(cls=Root, lazy=COMMANDS, meant=MEANT)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option("-d", "--db", metavar="URI", help="Database to use, as postgresql://USER@HOST/DATABASE.")
@click.option("-i", "--ini", type=click.Path(path_type=Path), help="Settings file to read last.")
@click.option("-c", "--config", is_flag=True, help="Ask for the most important settings and store them.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Use colours?")
@click.version_option(package_name="pyfi-hpc", message="pyfi %(version)s")
@click.pass_context
def pyfi(ctx: click.Context, debug: bool, db: str | None, ini: Path | None, config: bool, color: str) -> None:
    """Durable calls of functions in git repositories, on pinned workers: from a laptop to a Slurm cluster."""
    from pyfi_hpc.cli.context import Platform

    ctx.obj = Platform(ini, {"database.uri": db} if db is not None else {}, debug)
    ctx.call_on_close(ctx.obj.close)
    ctx.color = wants_colour(color)
    if config:
        from pyfi_hpc.cli.config import wizard

        wizard(ctx.obj)


def wants_colour(choice: str) -> bool | None:
    """True or False where somebody has said so; None: colours on a terminal only."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error has been printed."""
    context: list[click.Context] = []
    try:
        with pyfi.make_context("pyfi", list(arguments)) as ctx:
            context.append(ctx)
            pyfi.invoke(ctx)
            sys.stdout.flush()
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except BrokenPipeError:
        # the reader has seen enough; keep the interpreter from flushing into the closed pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        platform = context[0].obj if context else None
        debug = platform.debug if platform else "--debug" in arguments
        return report(error, debug=debug, as_json=bool(platform and platform.as_json))


def main() -> None:
    """The program `pyfi`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
