"""The program `python -m pyfi_hpc.agent.main`: one agent in the foreground, with or without its small parent."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyfi_hpc
from pyfi_hpc.agent import kernel
from pyfi_hpc.agent.cores import cores_for
from pyfi_hpc.agent.lock import node_lock, refuse_second
from pyfi_hpc.agent.logs import log_to_stderr
from pyfi_hpc.agent.respawn import Respawner
from pyfi_hpc.agent.service import Service, host_name
from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.brokers.connect import connect
from pyfi_hpc.config import Settings
from pyfi_hpc.config.surroundings import environment
from pyfi_hpc.control.retention import Keep
from pyfi_hpc.db import engine, schema
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.envs.repository import Allow
from pyfi_hpc.errors import PyfiError, Unavailable


def run(
    settings: Settings, *, host: str | None, cores: str | None, network: str, respawn: bool, unsafe: bool = False
) -> int:
    """Serve this node until stopped; returns the exit status.

    `host` None: the node's own name. `cores` None: as set, else the affinity mask. `respawn`: a small parent starts
    the agent again when it dies. `unsafe`: also with a database that may lose what it has committed.

    Raises:
        BadInput: E_NODE_LEASED another agent is here, E_SCHEMA, E_RANGE, E_DB_UNSAFE, E_BROKER_VERSION.
        Unavailable: the database is not there.
    """
    settings = replace(settings, agent=replace(settings.agent, cores=settings.agent.cores if cores is None else cores))
    if respawn:
        return Respawner(_command(host, network, unsafe), environment(settings)).run()
    kernel.keep_private()
    log_to_stderr()
    return _serve(settings, host or host_name(), network, unsafe)


def _command(host: str | None, network: str, unsafe: bool) -> list[str]:
    command = [sys.executable, "-P", "-m", "pyfi_hpc.agent.main", "--network", network]
    return [*command, *(["--host", host] if host else []), *(["--unsafe"] if unsafe else [])]


def _serve(settings: Settings, host: str, network: str, unsafe: bool) -> int:
    folder = node_folder(settings.state_dir, host)
    shared = settings.embedded if settings.agent.shared_cores is None else settings.agent.shared_cores
    with node_lock(folder, host):
        uri = settings.database.uri or EmbeddedPostgres(settings.state_dir).uri()
        _check(uri, network, host, unsafe)
        service = Service(
            database_uri=uri,
            broker=_checked(
                connect(
                    settings.broker.uri or None,
                    database_uri=uri,
                    ack_timeout_seconds=settings.broker.ack_timeout_seconds,
                )
            ),
            network=network,
            host=host,
            cores=cores_for(settings.agent.cores),
            shared_cores=shared,
            state=folder,
            cache=settings.cache_dir,
            blobs=settings.blob_dir,
            rules=Allow(settings.git.allow, settings.git.deny, own_files=settings.embedded),
            poll_seconds=settings.agent.poll_seconds,
            max_value_bytes=settings.agent.max_value_bytes,
            keep=Keep(settings.retention.outcomes_days, settings.retention.events_days),
            version=pyfi_hpc.__version__,
        )
        return service.run()


def node_folder(state_dir: Path, host: str) -> Path:
    """Lock, spool and scratch of one node: a state directory may be shared by several."""
    # parents that mkdir makes on the way would be open to others
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = state_dir / "nodes" / re.sub(r"[^\w.-]", "_", host)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _check(uri: str, network: str, host: str, unsafe: bool) -> None:
    database = engine.connect(uri, pool=1, application="pyfi-agent")
    try:
        if not unsafe:
            engine.check_safe(database)
        schema.check(database)
        connection = database.raw_connection()
        refuse_second(connection.cursor(), network, host)
        connection.close()
    finally:
        database.dispose()


def _checked(broker: Broker) -> Broker:
    """The broker, which is not too old; one that does not answer yet is waited for."""
    try:
        broker.check()
    except Unavailable:
        pass
    except PyfiError:
        broker.close()
        raise
    return broker


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: settings come from files and variables, errors go to stderr."""
    parser = argparse.ArgumentParser(prog="pyfi_hpc.agent.main")
    parser.add_argument("--network", help="the network to serve")
    parser.add_argument("--host", help="the node's name, in place of this machine's")
    parser.add_argument("--cores", help="such as 0-3,8")
    parser.add_argument("--respawn", action="store_true", help="start the agent again when it dies")
    parser.add_argument("--unsafe", action="store_true", help="serve a database that may lose committed rows")
    parser.add_argument("--parent", type=int, help="end with the process of this number")
    options = parser.parse_args(arguments)
    if options.parent is not None:
        kernel.tie_to(options.parent)
    try:
        settings = Settings.load()
        network = options.network or settings.agent.network
        return run(
            settings,
            host=options.host,
            cores=options.cores,
            network=network,
            respawn=options.respawn,
            unsafe=options.unsafe,
        )
    except PyfiError as error:
        print(f"pyfi: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
