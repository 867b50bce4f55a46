"""Looks at one thing after the other, and says of each what was seen and what would mend it (RELIABILITY 1.23).

It starts nothing and changes nothing, but that a queue which the broker has lost is declared again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial

from pyfi_hpc import local
from pyfi_hpc.brokers.connect import connect
from pyfi_hpc.config import Settings, kinds
from pyfi_hpc.db import engine as engines
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.doctor import broker, cluster, machine
from pyfi_hpc.doctor.database import Database
from pyfi_hpc.doctor.findings import Finding, Mark, looked
from pyfi_hpc.local.record import Records

#: What the examination can be limited to.
AREAS = ("settings", "db", "broker", "network", "slurm", "machine")


def examine(settings: Settings, area: str | None = None) -> Iterator[Finding]:
    """Every finding, or those of one of the `AREAS`, in the order in which they are looked at."""
    wanted = AREAS if area is None else (area,)
    if "settings" in wanted:
        yield from looked("settings", partial(_settings, settings))
    uri = _database_uri(settings)
    if uri is None:
        if area is None or area in ("db", "broker", "network"):
            seen = f"the local service does not run in {settings.state_dir}; it comes with the first call"
            yield Finding(Mark.DOUBTFUL, "database", seen, "pyfi local start")
        nodes = 0
    else:
        nodes = yield from _services(settings, uri, wanted)
    if "slurm" in wanted:
        yield from cluster.look(settings)
    if "machine" in wanted:
        yield from machine.look(settings, nodes)


def _settings(settings: Settings) -> Iterator[Finding]:
    """Files with a password that others can read are refused before: here they have been read."""
    settings.check_here()
    mode = "embedded mode" if settings.embedded else "servers"
    folder = settings.state_dir
    if folder.is_dir() and folder.stat().st_uid == os.getuid() and stat.S_IMODE(folder.stat().st_mode) & 0o077:
        seen = f"{folder} can be entered by others, and may hold credentials"
        yield Finding(Mark.DOUBTFUL, "settings", seen, f"chmod 700 {folder}")
        return
    yield Finding(Mark.GOOD, "settings", f"{mode}, {len(settings.origins)} given; nothing secret can be read by others")


def _database_uri(settings: Settings) -> str | None:
    """The database's address; None where it is the embedded one and does not run."""
    if settings.database.uri:
        return settings.database.uri
    return EmbeddedPostgres(settings.state_dir).uri() if local.status(settings)["running"] else None


def _services(settings: Settings, uri: str, wanted: tuple[str, ...]) -> Generator[Finding, None, int]:
    """Database, broker and network; returns on how many nodes an agent serves."""
    engine = engines.connect(uri, pool=1, application="pyfi doctor")
    try:
        log = Records(settings.state_dir).log if settings.embedded else None
        database = Database(engine, settings.agent.network, log)
        about_database = list(database.server())
        yield from about_database if "db" in wanted else ()
        if "broker" in wanted:
            yield from _broker(settings, uri, database)
        if "network" in wanted:
            yield from database.network()
        return database.live_nodes()
    finally:
        engine.dispose()


def _broker(settings: Settings, uri: str, database: Database) -> Iterator[Finding]:
    where = f"at {kinds.masked(settings.broker.uri)}" if settings.broker.uri else "in the database"
    timeout = settings.broker.ack_timeout_seconds
    with closing(connect(settings.broker.uri or None, database_uri=uri, ack_timeout_seconds=timeout)) as carrier:
        yield from broker.look(carrier, where, database)
