"""Which columns a list of each kind has: first those of a table, then those that `-o wide` adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Listed(NamedTuple):
    """How a kind is listed: the plural people type, one line of help, its columns."""

    plural: str
    meaning: str
    columns: tuple[str, ...]
    wide: tuple[str, ...] = ()


_OBJECT = ("id", "owner", "created", "updated", "generation")

LISTED: Mapping[str, Listed] = {
    "queue": Listed("queues", "queues", ("name", "type", "max_length"), _OBJECT),
    "processor": Listed(
        "processors",
        "processors",
        ("name", "requested_status", "status", "workers", "module", "commit", "host"),
        ("repository", "branch", "default_task", "cpus", "gpus", "mem_mib", "reason", *_OBJECT),
    ),
    "socket": Listed("sockets", "sockets", ("name", "processor", "task", "queue"), ("binding", "signature", *_OBJECT)),
    "plug": Listed("plugs", "plugs", ("name", "processor", "source", "queue", "target", "key"), _OBJECT),
    "node": Listed("nodes", "nodes", ("name", "host", "status", "cpus", "mem_mib"), ("cluster", *_OBJECT)),
    "scheduler": Listed(
        "schedulers",
        "schedulers, with who leads",
        ("name", "leader", "live_jobs", "nodes", "problem"),
        ("cluster", "polled", "queries", "epoch", "lease_until", *_OBJECT),
    ),
    "job": Listed(
        "jobs",
        "Slurm jobs, newest first",
        ("job", "processor", "status", "workers", "ready", "nodes", "why"),
        ("state", "restarts", "submitted", "started", "ends_at", "ended", "exit_code", "scheduler", "id"),
    ),
    "agent": Listed("agents", "agents, newest first", ("id", "node", "pid", "cores", "started", "ended"), ("version",)),
    "worker": Listed(
        "workers",
        "workers, with their core",
        ("id", "processor", "node", "job", "status", "cores", "pid", "calls"),
        ("slot", "devices", "commit", "environment", "reason", "created", "ended"),
    ),
    "event": Listed("events", "events, newest first", ("at", "kind", "object", "name", "what"), ("actor", "detail")),
}
