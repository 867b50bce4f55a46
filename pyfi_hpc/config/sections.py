"""Every setting, its default and its meaning: the one list that files, variables, help and docs are made from.

`[section]` and key of an INI file are class and field here; the variable is `PYFI_SECTION_KEY`.
"""

# `key` makes a dataclass field: it is meant to be called for a default
# ruff: noqa: RUF009
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from pyfi_hpc.config import kinds

T = TypeVar("T")
_DAY_SECONDS = 86_400


def key(default: T, convert: Callable[[str], T], meaning: str) -> T:
    """A dataclass field that knows how to read itself from text."""
    return field(default=default, metadata={"convert": convert, "meaning": meaning})


@dataclass(frozen=True)
class Database:
    uri: str = key("", kinds.database_uri, "postgresql://USER:PASSWORD@HOST/DATABASE; empty: embedded mode")


@dataclass(frozen=True)
class Broker:
    uri: str = key(
        "", kinds.broker_uri, "amqp://USER:PASSWORD@HOST/VHOST, amqps:// for TLS; empty: a broker in the database"
    )
    management_uri: str = key("", kinds.http_uri, "RabbitMQ's management address, for figures about queues")
    # RabbitMQ's own default of consumer_timeout
    ack_timeout_seconds: int = key(1800, kinds.whole(10, _DAY_SECONDS), "the broker's time limit for an ack")


@dataclass(frozen=True)
class Slurm:
    partition: str = key("", kinds.text, "the partition to ask; empty: Slurm's default")
    account: str = key("", kinds.text, "the account to charge; empty: Slurm's default")
    python: str = key("", kinds.text, "the interpreter on compute nodes; empty: the one that submits")
    poll_seconds: int = key(10, kinds.whole(1, 3600), "between two looks at the queue")
    cluster: str = key("", kinds.text, "the cluster's name; empty: as Slurm says")
    launcher: str = key(
        "auto", kinds.choice("auto", "slurm", "local"), "who runs pilots: Slurm (auto, slurm), or this machine alone"
    )


@dataclass(frozen=True)
class Git:
    allow: tuple[str, ...] = key((), kinds.words, "addresses that processors may come from, as prefixes")
    deny: tuple[str, ...] = key((), kinds.words, "addresses that they may not come from, though allowed")
    mirror: Path | None = key(None, kinds.path, "where repositories are mirrored; empty: in the cache")
    credentials_helper: str = key("", kinds.text, "git's credential.helper for fetching")


@dataclass(frozen=True)
class Paths:
    state: Path | None = key(None, kinds.path, "sockets, embedded database, logs; empty: $XDG_STATE_HOME/pyfi")
    cache: Path | None = key(None, kinds.path, "mirrors and environments; empty: $XDG_CACHE_HOME/pyfi")
    blobs: Path | None = key(None, kinds.path, "large values; empty: in the cache")
    blobs_gib: float | None = key(
        None, kinds.number_or_none(0.001, 2**30), "how much all large values may take, in GiB; empty: what the disk has"
    )


@dataclass(frozen=True)
class Agent:
    cores: str = key("", kinds.cores, "cores to use, such as 0-3,8; empty: all of the affinity mask")
    shared_cores: bool | None = key(None, kinds.yes_no_unset, "may workers share a core? empty: only where they must")
    poll_seconds: float = key(2.0, kinds.number(0.05, 3600), "between two looks at what is wanted, without a hint")
    network: str = key("default", kinds.text, "the network that this agent serves")
    max_value_bytes: int = key(2**30, kinds.whole(1024, 2**40), "the largest result of a call")
    # Slurm's own default of KillWait
    kill_wait_seconds: int = key(30, kinds.whole(1, 3600), "Slurm's KillWait: how long a job that is to end has")
    node_pipes: bool = key(
        False, kinds.yes_no, "may results go straight to workers on other nodes of one job, by TCP with CURVE?"
    )
    node_pipes_network: str = key(
        "", kinds.ip_network, "the network for these, such as 10.1.0.0/16; empty: that of the node's name"
    )
    idle_minutes: float = key(30.0, kinds.number(0.05, 525_600), "after which `pyfi local` ends by itself")


@dataclass(frozen=True)
class Client:
    timeout_seconds: float | None = key(None, kinds.number_or_none(0, 31_536_000), "how long to wait; empty: no limit")
    connect_seconds: float = key(10.0, kinds.number(0.1, 3600), "how long to try to reach a service")
    max_value_bytes: int = key(2**30, kinds.whole(1024, 2**40), "the largest argument of a call")
    batch_calls: int = key(256, kinds.whole(1, 256), "how many calls share a message at most; 1: each travels alone")


@dataclass(frozen=True)
class Retention:
    outcomes_days: int = key(30, kinds.whole(1, 36_500), "how long an outcome can be asked for")
    events_days: int = key(90, kinds.whole(1, 36_500), "how long events and attempts are kept")


SECTIONS: Mapping[str, type[Any]] = {
    "database": Database,
    "broker": Broker,
    "slurm": Slurm,
    "git": Git,
    "paths": Paths,
    "agent": Agent,
    "client": Client,
    "retention": Retention,
}


@dataclass(frozen=True)
class Key:
    """One setting: `section.name`."""

    section: str
    name: str
    default: Any
    convert: Callable[[str], Any]
    meaning: str

    @property
    def variable(self) -> str:
        return f"PYFI_{self.section}_{self.name}".upper()


def _keys() -> dict[str, Key]:
    return {
        f"{section}.{known.name}": Key(section, known.name, known.default, **known.metadata)
        for section, kind in SECTIONS.items()
        for known in fields(kind)
    }


#: "section.name" -> the setting, in the order above.
KEYS: Mapping[str, Key] = _keys()
