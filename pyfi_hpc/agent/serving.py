"""One agent in the foreground: it takes its post, sees that it may, says what it has, and serves."""

from __future__ import annotations

import gc
import os
from dataclasses import replace

import pyfi_hpc
from pyfi_hpc.agent import pilot
from pyfi_hpc.agent.ahead import Ahead
from pyfi_hpc.agent.cores import cores_for
from pyfi_hpc.agent.lock import Post
from pyfi_hpc.agent.logs import log_to_stderr
from pyfi_hpc.agent.pilot import Pilot
from pyfi_hpc.agent.pipes import addresses
from pyfi_hpc.agent.registering import Application
from pyfi_hpc.agent.service import Means, Service, host_name
from pyfi_hpc.agent.slots import described
from pyfi_hpc.config import Settings
from pyfi_hpc.control.retention import Keep
from pyfi_hpc.db import plain
from pyfi_hpc.envs.repository import Allow
from pyfi_hpc.gpu.inventory import devices
from pyfi_hpc.logs import logger
from pyfi_hpc.processes import fingerprint
from pyfi_hpc.wire.ids import new_id

log = logger("pyfi.agent")

#: Objects that come before garbage is looked for; Python's own figure is 700.
_OBJECTS = 50_000


def serve(settings: Settings, ahead: Ahead, *, host: str | None, network: str, token: str | None, unsafe: bool) -> int:
    """Serve this node until stopped; returns the exit status. See `main.run`."""
    if token is not None:
        pilot.checked_token(token)
    log_to_stderr()
    incarnation = 0 if token is None else pilot.incarnation(os.environ)
    return _serve(settings, ahead, Post(network, host or host_name(), token, incarnation), unsafe)


def _serve(settings: Settings, ahead: Ahead, post: Post, unsafe: bool) -> int:
    folder = post.folder(settings.state_dir)
    with post.held(folder):
        job = _check(ahead, post, unsafe)
        means = Means(
            database_uri=ahead.uri.result(),
            session=ahead.session.result(),
            broker=ahead.broker.result(),
            application=_application(settings, post, job),
            state=folder,
            cache=settings.cache_dir,
            blobs=settings.blob_dir,
            rules=Allow(settings.git.allow, settings.git.deny, own_files=settings.embedded),
            poll_seconds=settings.agent.poll_seconds,
            kill_wait_seconds=settings.agent.kill_wait_seconds,
            max_value_bytes=settings.agent.max_value_bytes,
            blob_quota_bytes=settings.blob_quota_bytes,
            keep=Keep(settings.retention.outcomes_days, settings.retention.events_days),
            pipes_address=_pipes_address(settings, ahead.uri.result(), post, job),
        )
        service = Service(means)
        # thousands of small records live for milliseconds: looking for cycles among them took a tenth of the time
        gc.freeze()
        gc.set_threshold(_OBJECTS, 20, 20)
        gc.enable()
        return service.run()


def _check(ahead: Ahead, post: Post, unsafe: bool) -> Pilot | None:
    """See that this agent may serve its post; its job, where it is in one."""
    where = plain.place(ahead.uri.result())
    with plain.translating(where), ahead.session.result() as connection, connection.cursor() as cursor:
        if not unsafe:
            plain.check_safe(cursor, where)
        plain.check_schema(cursor, where)
        job = pilot.find(cursor, post.network, post.token, post.incarnation) if post.token else None
        post.refuse_second(cursor)
    return job


def _pipes_address(settings: Settings, uri: str, post: Post, job: Pilot | None) -> str | None:
    """The node's address for pipes to other nodes of its job; None where there are to be none."""
    if not settings.agent.node_pipes or job is None or not addresses.several_nodes(job.request):
        return None
    found = addresses.own_address(post.host, uri, settings.agent.node_pipes_network)
    if found is None:
        log.warning("pipes lead to no other node: none of its addresses is known to others", node=post.host,
                    cure="set agent.node_pipes_network")  # fmt: skip
    return found


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
