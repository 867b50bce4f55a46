"""`python -m pyfi_hpc.box start|status|stop`: a cluster on this machine, to try things out."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from pyfi_hpc.box.background import Background, default_home
from pyfi_hpc.box.slurm import Profile
from pyfi_hpc.errors import PyfiError


def main() -> int:
    """Do what was typed; the exit code."""
    typed = parser().parse_args()
    try:
        return int(COMMANDS[typed.command](typed))
    except PyfiError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m pyfi_hpc.box", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    for name, meaning in MEANINGS.items():
        command = commands.add_parser(name, help=meaning, description=meaning)
        command.add_argument("--home", type=Path, default=default_home(), help="its folder (default: %(default)s)")
        if name == "start":
            command.add_argument("--nodes", type=_from(1), default=3, help="how many (default: %(default)s)")
            command.add_argument("--cpus", type=_from(1), default=8, help="of each node (default: %(default)s)")
            command.add_argument("--gpus", type=_from(0), default=4, help="of each node (default: %(default)s)")
            command.add_argument(
                "--profile",
                choices=get_args(Profile),
                default="multi",
                help="multi: nodes beside each other; netns: each a host of its own, for root (default: %(default)s)",
            )
            command.add_argument("--accounting", action="store_true", help="with slurmdbd, for sacct and QOS")
    return top


def start(typed: argparse.Namespace) -> int:
    """Start it unless it runs, and say how to use it."""
    cluster = Background(typed.home)
    if cluster.pid is not None:
        print("The cluster runs already.", file=sys.stderr)
    else:
        options = ("nodes", "cpus", "gpus", "profile", "accounting")
        cluster.start({name: getattr(typed, name) for name in options}, tell=_step)
        print("The cluster runs.", file=sys.stderr)
    _show_use(cluster)
    return 0


def status(typed: argparse.Namespace) -> int:
    """Say whether it runs, and how to use it."""
    cluster = Background(typed.home)
    if cluster.pid is None:
        print("No cluster runs.", file=sys.stderr)
    else:
        print("The cluster runs.", file=sys.stderr)
        _show_use(cluster)
    return 0


def stop(typed: argparse.Namespace) -> int:
    """Take it away, if it is there."""
    stopped = Background(typed.home).stop()
    print("The cluster is stopped, and nothing of it is left." if stopped else "No cluster runs.", file=sys.stderr)
    return 0


def _step(line: str) -> None:
    print(f"==> {line}", file=sys.stderr)


def _show_use(cluster: Background) -> None:
    print(f"To use it in this shell:   {cluster.how_to_use()}")
    print("Then, for example:         sinfo; pyfi doctor")
    print(f"To stop it, in that shell: python -m pyfi_hpc.box stop{_named(cluster)}")


def _named(cluster: Background) -> str:
    return "" if cluster.home == default_home() else f" --home {shlex.quote(str(cluster.home))}"


def _from(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"at least {least}, not {value}")
        return value

    return number


COMMANDS = {"start": start, "status": status, "stop": stop}
MEANINGS = {
    "start": "start a cluster in the background, and say how to use it",
    "status": "say whether it runs, and how to use it",
    "stop": "stop it, and leave nothing behind",
}

if __name__ == "__main__":
    sys.exit(main())
