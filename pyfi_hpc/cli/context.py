"""What every command gets: the settings, and the ways to the services, each opened when first used."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyfi_hpc.config import Settings
from pyfi_hpc.errors import BadInput

# the services' libraries are loaded by the commands that need them, never for --help
if TYPE_CHECKING:
    from sqlalchemy import Engine

    from pyfi_hpc.brokers.base import Broker
    from pyfi_hpc.client.client import Client
    from pyfi_hpc.client.network import Network
    from pyfi_hpc.control.submitting import Control


#: Less reaches nothing.
_LEAST_SECONDS = 0.1


class Platform:
    """One run of the command line.

    Attributes:
        ini: the settings file named with -i, if any.
        options: settings given as options, by name.
        debug: tracebacks are wanted.
        new_id: the id that a group's --id gave.
        as_json: errors are wanted as JSON, because results are.
        patience: seconds for which a service is tried at most, where that is less than the setting; to be set first.
    """

    def __init__(self, ini: Path | None = None, options: dict[str, str] | None = None, debug: bool = False) -> None:
        self.ini, self.options, self.debug = ini, options or {}, debug
        self.as_json = False
        self.new_id: uuid.UUID | None = None
        self.patience: float | None = None
        self._open = ExitStack()

    @cached_property
    def settings(self) -> Settings:
        return Settings.load(self.ini, self.options)

    @cached_property
    def client(self) -> Client:
        """Calls and what becomes of them; in embedded mode the first use starts the service of this machine."""
        from pyfi_hpc.client.client import Client

        client = Client(_hurried(self.settings, self.patience), note=lambda line: click.echo(f"pyfi: {line}", err=True))
        self._open.callback(client.close)
        return client

    @property
    def database_uri(self) -> str:
        return self.client.session.database_uri

    @property
    def engine(self) -> Engine:
        return self.client.session.engine

    @property
    def broker(self) -> Broker:
        return self.client.session.broker

    @property
    def network(self) -> Network:
        """The objects of the network that the settings name."""
        return self.client.network

    @cached_property
    def control(self) -> Control:
        """What submits and cancels jobs; by Slurm, or on this machine alone, as the settings say."""
        from pyfi_hpc.control.submitting import Control
        from pyfi_hpc.slurm.connect import launcher_for

        session = self.client.session
        return Control(session.link, session.broker, launcher_for(self.settings), self.settings)

    def refresh_jobs(self) -> None:
        """Where no scheduler follows the jobs, see for ourselves how they are."""
        from pyfi_hpc.control import submitting

        submitting.refresh(self.control)

    def act_on_jobs(self) -> None:
        """Where no scheduler leads, send and cancel the pilots of processors ourselves."""
        from pyfi_hpc.control import submitting

        submitting.act(self.control)

    def close(self) -> None:
        """End every connection."""
        self._open.close()


def _hurried(settings: Settings, patience: float | None) -> Settings:
    """The settings, with no more time to reach a service than that."""
    if patience is None or patience >= settings.client.connect_seconds:
        return settings
    return replace(settings, client=replace(settings.client, connect_seconds=max(patience, _LEAST_SECONDS)))


def pass_platform(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` the platform as its first argument."""
    return click.make_pass_decorator(Platform)(command)


def confirm(what: str, yes: bool) -> None:
    """Go on only if `yes` was given or the person agrees to `what`.

    Raises:
        BadInput: E_CONFIRM when nobody can be asked, or the person says no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadInput("E_CONFIRM", f"{what}: not confirmed", cure="add -y")
    if not click.confirm(f"{what}?", err=True):
        raise BadInput("E_CONFIRM", f"{what}: not confirmed")
