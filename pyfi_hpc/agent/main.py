"""The program `python -m pyfi_hpc.agent.main`: one agent in the foreground, with or without its small parent."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

import structlog

import pyfi_hpc
from pyfi_hpc.agent import kernel, pilot
from pyfi_hpc.agent.cores import cores_for
from pyfi_hpc.agent.lock import Post
from pyfi_hpc.agent.logs import log_to_stderr
from pyfi_hpc.agent.pilot import Pilot
from pyfi_hpc.agent.registering import Application
from pyfi_hpc.agent.respawn import Respawner
from pyfi_hpc.agent.service import Service, host_name
from pyfi_hpc.agent.slots import described
from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.brokers.connect import connect
from pyfi_hpc.config import Settings
from pyfi_hpc.config.surroundings import environment
from pyfi_hpc.control.retention import Keep
from pyfi_hpc.db import engine, schema
from pyfi_hpc.db.embedded import EmbeddedPostgres
from pyfi_hpc.envs.repository import Allow
from pyfi_hpc.errors import PyfiError, Unavailable
from pyfi_hpc.gpu.inventory import devices
from pyfi_hpc.processes import fingerprint
from pyfi_hpc.wire.ids import new_id

log = structlog.get_logger("pyfi.agent")


def run(
    settings: Settings,
    *,
    host: str | None,
    cores: str | None,
    network: str,
    respawn: bool,
    unsafe: bool = False,
    job: str | None = None,
) -> int:
    """Serve this node until stopped; returns the exit status.

    `host` None: the node's own name. `cores` None: as set, else the affinity mask. `respawn`: a small parent starts
    the agent again when it dies. `unsafe`: also with a database that may lose what it has committed. `job`: the token
    of the job that this process runs in; its slots are served then.

    Raises:
        BadInput: E_NODE_LEASED another agent is here, E_SCHEMA, E_RANGE, E_DB_UNSAFE, E_BROKER_VERSION; of a job
            E_NOT_FOUND, E_SUPERSEDED.
        Unavailable: the database is not there.
    """
    settings = replace(settings, agent=replace(settings.agent, cores=settings.agent.cores if cores is None else cores))
    token = None if job is None else pilot.checked_token(job)
    if respawn:
        return Respawner(_command(host, network, unsafe, token), environment(settings)).run()
    kernel.keep_private()
    log_to_stderr()
    incarnation = 0 if token is None else pilot.incarnation(os.environ)
    return _serve(settings, Post(network, host or host_name(), token, incarnation), unsafe)


def _command(host: str | None, network: str, unsafe: bool, token: str | None) -> list[str]:
    command = [sys.executable, "-P", "-m", "pyfi_hpc.agent.main", "--network", network]
    optional = [*(["--host", host] if host else []), *(["--job", token] if token else [])]
    return [*command, *optional, *(["--unsafe"] if unsafe else [])]


def _serve(settings: Settings, post: Post, unsafe: bool) -> int:
    folder = post.folder(settings.state_dir)
    with post.held(folder):
        uri = settings.database.uri or EmbeddedPostgres(settings.state_dir).uri()
        job = _check(uri, post, unsafe)
        service = Service(
            database_uri=uri,
            broker=_checked(
                connect(
                    settings.broker.uri or None,
                    database_uri=uri,
                    ack_timeout_seconds=settings.broker.ack_timeout_seconds,
                )
            ),
            application=_application(settings, post, job),
            state=folder,
            cache=settings.cache_dir,
            blobs=settings.blob_dir,
            rules=Allow(settings.git.allow, settings.git.deny, own_files=settings.embedded),
            poll_seconds=settings.agent.poll_seconds,
            kill_wait_seconds=settings.agent.kill_wait_seconds,
            max_value_bytes=settings.agent.max_value_bytes,
            keep=Keep(settings.retention.outcomes_days, settings.retention.events_days),
        )
        return service.run()


def _check(uri: str, post: Post, unsafe: bool) -> Pilot | None:
    """See that this agent may serve its post; its job, where it is in one."""
    database = engine.connect(uri, pool=1, application="pyfi-agent")
    try:
        if not unsafe:
            engine.check_safe(database)
        schema.check(database)
        connection = database.raw_connection()
        cursor = connection.cursor()
        job = pilot.find(cursor, post.network, post.token, post.incarnation) if post.token else None
        post.refuse_second(cursor)
        connection.close()
    finally:
        database.dispose()
    return job


def _application(settings: Settings, post: Post, job: Pilot | None) -> Application:
    """What this agent says of itself: its cores and GPUs, or the slots that its job was granted."""
    shared = settings.embedded if settings.agent.shared_cores is None else settings.agent.shared_cores
    common = Application(
        agent=new_id(), post=post, pilot=job, cores=(), node_cpus=os.cpu_count() or 1, mem_mib=_memory_mib(),
        shared_cores=shared, pid=os.getpid(), process=fingerprint(os.getpid()), version=pyfi_hpc.__version__,
    )  # fmt: skip
    if job is None:
        cores = cores_for(settings.agent.cores)
        return replace(common, cores=cores, node_cpus=len(cores), devices=devices())
    share = pilot.share_of(job.request, post.host)
    log.info("slots", found=described(share.layout, job.request.slot))
    slots = share.layout.slots
    own = {device for slot in slots for device in slot.devices}
    return replace(
        common,
        cores=sorted({core for slot in slots for core in slot.cores}),
        slots=slots,
        ends_at=share.grant.ends_at,
        devices=tuple(device for device in share.inventory.devices if device.uuid in own),
    )


def _memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_048_576


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
    parser.add_argument("--job", metavar="TOKEN", help="the job that this process runs in")
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
            job=options.job,
        )
    except PyfiError as error:
        print(f"pyfi: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
