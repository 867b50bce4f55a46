"""A cluster that is not there, as the records that the control plane reads: half of its nodes are in pilots."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import msgspec

from pyfi_hpc.control.pilots import PilotJob, PilotProcessor, Seen
from pyfi_hpc.control.records import ExistingWorker, ServingNode, Slot, WantedProcessor
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.model.status import JobStatus, ProcessorStatus, Requested, WorkerStatus
from pyfi_hpc.slurm.launcher import Observation

PROCESSORS = 50
WORKERS_PER_NODE = 10
#: Of each node whose agent was started by hand.
CORES, GPUS, GPU_WORKERS = 16, 4, 2
#: Nodes of one pilot.
NODES_PER_JOB = 10
#: Of five processors one uses GPUs.
_FIFTH = 5

NODE, AGENT, WORKER, PROCESSOR, JOB = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Fleet:
    """What a pass over jobs reads."""

    processors: list[PilotProcessor]
    jobs: list[PilotJob]
    seen: Seen
    now: datetime.datetime


@dataclass(frozen=True)
class World:
    """What a pass reads."""

    processors: list[WantedProcessor]
    nodes: list[ServingNode]
    workers: list[ExistingWorker]

    def less(self, part: int) -> World:
        """The same without every `part`-th worker."""
        kept = [worker for number, worker in enumerate(self.workers) if number % part]
        return World(self.processors, self.nodes, kept)


def identity(kind: int, number: int) -> bytes:
    """An id: it is a UUID's bytes."""
    return kind.to_bytes(8, "big") + number.to_bytes(8, "big")


def world(nodes: int, version: str = "v") -> World:
    """So many nodes, ten times as many workers, fifty processors: every worker that is wanted is there.

    `nodes` is a multiple of 100. The first half of the nodes, and of the processors, has agents that were started by
    hand; there workers have cores, and those of every fifth processor a GPU. The other half is in pilots with slots.
    """
    half = PROCESSORS // 2
    each = nodes * WORKERS_PER_NODE // PROCESSORS
    by_hand = [_by_hand(number) for number in range(nodes // 2)]
    in_pilots = [_in_pilot(nodes // 2 + number, half + number // (nodes // 2 // half)) for number in range(nodes // 2)]
    workers = chain(_sharing(by_hand, each), _in_slots(in_pilots))
    return World(
        [_processor(number, each) for number in range(PROCESSORS)],
        [*by_hand, *in_pilots],
        [
            msgspec.structs.replace(worker, id=identity(WORKER, number), version=version)
            for number, worker in enumerate(workers)
        ],
    )


def _processor(number: int, workers: int) -> WantedProcessor:
    in_pilots = number >= PROCESSORS // 2
    return WantedProcessor(
        identity(PROCESSOR, number), f"p{number}", Requested.RUNNING, ProcessorStatus.RUNNING, workers, 1, None, "v",
        gpus=int(_uses_gpus(number)), shape=in_pilots,
    )  # fmt: skip


def _uses_gpus(processor: int) -> bool:
    return processor % _FIFTH == 0


def _by_hand(number: int) -> ServingNode:
    name = f"n{number}"
    return ServingNode(
        identity(NODE, number), identity(AGENT, number), name, name, tuple(range(CORES)), False,
        devices=tuple(f"GPU-{number}-{index}" for index in range(GPUS)),
    )  # fmt: skip


def _in_pilot(number: int, processor: int) -> ServingNode:
    name = f"n{number}"
    gpus = _uses_gpus(processor)
    return ServingNode(
        identity(NODE, number), identity(AGENT, number), name, name, tuple(range(WORKERS_PER_NODE)), False,
        slots=tuple(
            Slot((core,), (f"GPU-{number}-{core}",) if gpus else ()) for core in range(WORKERS_PER_NODE)
        ),
        job=identity(JOB, number // NODES_PER_JOB), for_processor=identity(PROCESSOR, processor),
    )  # fmt: skip


def _sharing(nodes: list[ServingNode], each: int) -> Iterator[ExistingWorker]:
    """Ten workers on each node, two of which have a GPU; so many of each processor."""
    of_kind = {
        gpus: iter([number for number in range(PROCESSORS // 2) if _uses_gpus(number) is gpus for _ in range(each)])
        for gpus in (True, False)
    }
    for node in nodes:
        for core in range(WORKERS_PER_NODE):
            gpus = core < GPU_WORKERS
            processor = identity(PROCESSOR, next(of_kind[gpus]))
            yield _worker(processor, node, (core,), None, node.devices[core : core + 1] if gpus else ())


def _in_slots(nodes: list[ServingNode]) -> Iterator[ExistingWorker]:
    for node in nodes:
        assert node.for_processor is not None
        for number, slot in enumerate(node.slots):
            yield _worker(node.for_processor, node, slot.cores, number, slot.devices)


def _worker(
    processor: bytes, node: ServingNode, cores: tuple[int, ...], slot: int | None, devices: tuple[str, ...]
) -> ExistingWorker:
    return ExistingWorker(b"", processor, node.agent, cores, WorkerStatus.READY, "", slot, devices)


def fleet(jobs: int) -> Fleet:
    """So many jobs that run, as Slurm says too, for fifty processors; ten that have ended beside each processor's."""
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    live = [_job(number, number % PROCESSORS, now, JobStatus.RUNNING) for number in range(jobs)]
    ended = [_job(jobs + number, number % PROCESSORS, now, JobStatus.ENDED) for number in range(10 * PROCESSORS)]
    processors = [
        PilotProcessor(
            identity(PROCESSOR, number), f"p{number}", Requested.RUNNING, now - datetime.timedelta(days=2),
            ResourceRequest(nodes=NODES_PER_JOB), WORKERS_PER_NODE * NODES_PER_JOB,
            sum(job.workers for job in live if job.processor == identity(PROCESSOR, number)),
        )
        for number in range(PROCESSORS)
    ]  # fmt: skip
    seen = {job.known.job: job.known for job in live if job.known}
    return Fleet(processors, [*live, *ended], Seen(seen), now)


def _job(number: int, processor: int, now: datetime.datetime, status: JobStatus) -> PilotJob:
    created = now - datetime.timedelta(days=1, seconds=-number)
    known = Observation(str(number), status, str(status), started=created, nodes=f"n{number}")
    return PilotJob(
        identity(JOB, number), identity(PROCESSOR, processor), f"{number:032x}", status,
        WORKERS_PER_NODE * NODES_PER_JOB, created, str(number), known, agents=NODES_PER_JOB, served=True,
        ended=now if status is JobStatus.ENDED else None, requested=Requested.RUNNING,
    )  # fmt: skip
