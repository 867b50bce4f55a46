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
    "queue": Listed("queues", "queues", ("name", "type", "max_length"), ("kind", "priorities", *_OBJECT)),
    "processor": Listed(
        "processors",
        "processors",
        ("name", "requested_status", "status", "workers", "module", "commit", "host"),
        ("repository", "branch", "default_task", "cpus", "gpus", "mem_mib", "reason", *_OBJECT),
    ),
    "socket": Listed(
        "sockets",
        "sockets",
        ("name", "processor", "task", "queue"),
        ("binding", "priorities", "ordering", "signature", *_OBJECT),
    ),
    "plug": Listed(
        "plugs",
        "plugs",
        ("name", "processor", "source", "queue", "target", "key", "way", "piped", "queued"),
        ("route", "far", "piped_at", "queued_at", "far_at", *_OBJECT),
    ),
    "node": Listed(
        "nodes",
        "nodes, with how many workers and GPUs each has",
        ("name", "host", "status", "cpus", "mem_mib", "gpus", "agents", "workers"),
        ("cluster", "scheduler", *_OBJECT),
    ),
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
    "agent": Listed(
        "agents",
        "agents, newest first",
        ("id", "node", "pid", "cores", "job", "slots", "started", "ended"),
        ("incarnation", "ends_at", "version"),
    ),
    "worker": Listed(
        "workers",
        "workers, with their core or GPU",
        ("id", "processor", "node", "job", "status", "cores", "devices", "pid", "calls"),
        ("running", "running_since", "slot", "commit", "environment", "reason", "created", "ended"),
    ),
    "device": Listed(
        "devices",
        "GPUs and MIG instances, by node",
        ("uuid", "node", "model", "mem_mib", "processor", "utilization", "mem_used_mib"),
        ("temperature_celsius", "power_watts", "sampled", "parent", "cores"),
    ),
    "event": Listed("events", "events, newest first", ("at", "kind", "object", "name", "what"), ("actor", "detail")),
}
