"""The database, and what it says of the network: agents, processors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from pyfi_hpc.db import engine as engines
from pyfi_hpc.db import schema
from pyfi_hpc.doctor import processors
from pyfi_hpc.doctor.findings import Finding, Mark, looked

#: A node's clock that is further off than this is worth a look; leases go by the database's own.
CLOCK_SECONDS = 5.0


class Database:
    """Looks at the database behind an engine; `log` is the local service's, where that runs and starts the agent."""

    def __init__(self, engine: Engine, network: str, log: Path | None) -> None:
        self._engine, self._network = engine, network
        self._start = f"the local service starts one again and again: tail {log}" if log else "pyfi agent run --respawn"
        self._bring = self._start if log else f"pyfi submit --processor NAME, or here: {self._start}"
        self._is_there = False
        #: it has answered, and its schema is ours
        self.fits = False

    def server(self) -> Iterator[Finding]:
        """The server and its settings; the schema and the network's things only where it answers."""
        yield from looked("database", self._reached)
        if self._is_there:
            yield from looked("durability", self._safe)
            yield from looked("role", self._role)
            yield from looked("clock", self._clock)
            yield from looked("schema", self._schema)

    def _reached(self) -> Iterator[Finding]:
        ((version,),) = self._rows("SELECT current_setting('server_version')")
        self._is_there = True
        yield Finding(Mark.GOOD, "database", f"PostgreSQL {version} at {engines.place(self._engine)}")

    def _schema(self) -> Iterator[Finding]:
        schema.check(self._engine)
        self.fits = True
        yield Finding(Mark.GOOD, "schema", f"version {schema.version_of(self._engine)}")

    def _safe(self) -> Iterator[Finding]:
        engines.check_safe(self._engine)
        yield Finding(Mark.GOOD, "durability", "fsync and full_page_writes are on")

    def _role(self) -> Iterator[Finding]:
        ((name, is_super, bypasses),) = self._rows(
            "SELECT rolname, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = session_user"
        )
        if is_super or bypasses:
            what = "a superuser" if is_super else "exempt from row security"
            cure = "pyfi db init --grant-to ROLE, then name that ROLE in database.uri"
            yield Finding(Mark.BAD, "role", f"{name} is {what}: no service should work as that", cure)
        else:
            yield Finding(Mark.GOOD, "role", f"{name}, an ordinary one")

    def _clock(self) -> Iterator[Finding]:
        before = time.time()
        ((theirs,),) = self._rows("SELECT extract(epoch FROM clock_timestamp())::float8")
        offset = theirs - (before + time.time()) / 2
        seen = f"the database's clock is {abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} this machine's"
        if abs(offset) > CLOCK_SECONDS:
            yield Finding(Mark.DOUBTFUL, "clock", seen, "timedatectl set-ntp true")
        else:
            yield Finding(Mark.GOOD, "clock", seen)

    # the network

    def network(self) -> Iterator[Finding]:
        """Agents and processors; nothing where the database does not answer or has no schema of ours."""
        if self.fits:
            yield from looked("agents", self._agents)
            yield from looked("processors", self._processors)
            yield from looked("schedulers", self._schedulers)

    def _schedulers(self) -> Iterator[Finding]:
        """One that nobody leads is worth a look where it has jobs or nodes; so is a Slurm that does not answer."""
        found = self._rows(
            """SELECT s.name, coalesce(s.lease_until > now(), false), s.problem,
                   (SELECT count(*) FROM pyfi.job j WHERE j.scheduler_id = s.id AND j.status <> 'ENDED'),
                   EXISTS (SELECT FROM pyfi.node o WHERE o.scheduler_id = s.id)
               FROM pyfi.scheduler s JOIN pyfi.network n ON n.id = s.network_id WHERE n.name = :network
               ORDER BY s.name"""
        )
        for name, led, problem, live, has_nodes in found:
            jobs = f"{live} live job{'s' if live != 1 else ''}"
            if problem:
                yield Finding(Mark.DOUBTFUL, "scheduler", f"{name}: {problem}", "pyfi doctor slurm")
            elif not led and (live or has_nodes):
                seen = f"nobody leads {name}, which has {jobs}: it sends no pilots by itself"
                yield Finding(Mark.DOUBTFUL, "scheduler", seen, f"pyfi scheduler start -n {name}")
            else:
                yield Finding(Mark.GOOD, "scheduler", f"{name} {'is led' if led else 'waits for work'}, {jobs}")

    def live_nodes(self) -> int:
        """On how many nodes an agent has its lease."""
        return sum(alive for _, _, alive, _ in self._newest_agents()) if self.fits else 0

    def _newest_agents(self) -> list[Any]:
        return self._rows(
            """SELECT DISTINCT ON (n.id) n.name, n.host, a.ended IS NULL AND a.lease_until > now(),
                   CASE WHEN (a.ended IS NULL OR a.ended >= a.lease_until) AND a.job_id IS NULL THEN a.lease_until END
               FROM pyfi.node n JOIN pyfi.network w ON w.id = n.network_id JOIN pyfi.agent a ON a.node_id = n.id
               WHERE w.name = :network
               ORDER BY n.id, (a.ended IS NULL AND a.lease_until > now()) DESC, a.started DESC"""
        )

    def _agents(self) -> Iterator[Finding]:
        agents = self._newest_agents()
        for name, host, alive, lapsed in agents:
            if alive:
                yield Finding(Mark.GOOD, "agent", f"{name} has its lease")
            elif lapsed is not None:
                since = (datetime.now(UTC) - lapsed).total_seconds()
                seen = f"{name} was not stopped, but has not renewed its lease for {max(since, 0):.0f} s"
                yield Finding(Mark.BAD, "agent", seen, f"on {host}: {self._start}")
        if not any(alive for _, _, alive, _ in agents):
            yield Finding(Mark.DOUBTFUL, "agents", "none: calls wait until one serves this network", self._bring)

    def _processors(self) -> Iterator[Finding]:
        rows = self._rows(processors.QUERY, settle=processors.SETTLE_SECONDS)
        yield from processors.judged([processors.Seen(*row) for row in rows], self._start)

    def task_queues(self) -> list[Any]:
        """Network, queue, task key, generation, length limit and kind of each queue that the broker should have."""
        return self._rows(
            """SELECT w.name, q.name, t.task_key, t.generation, q.max_length, q.kind,
                   t.declared IS NOT NULL
               FROM pyfi.task_queue t JOIN pyfi.queue q ON q.id = t.queue_id JOIN pyfi.network w ON w.id = q.network_id
               WHERE w.name = :network ORDER BY q.name, t.task_key"""
        )

    def _rows(self, statement: str, **values: object) -> list[Any]:
        with engines.database_errors(self._engine), self._engine.connect() as connection:
            asked = {"network": self._network} if ":network" in statement else {}
            return list(connection.execute(text(statement), {**asked, **values}).all())
