"""The tables of the control plane, schema `pyfi`.

Two families. *Objects* (queue, processor, socket, plug, node, agent, worker): few rows, written by people and the
control plane, each with owner, generation and times. *The record* (outcome, attempt, hold, event, quarantine): many
rows, written by agents in batches with plain SQL (`db.record`).

`owner` is the database role that made the row and never changes. The migrations are the schema; a test holds
them against these models.
"""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    Enum,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from pyfi_hpc.model.status import (
    AttemptStatus,
    Cause,
    HoldState,
    JobStatus,
    NodeStatus,
    OutcomeStatus,
    ProcessorStatus,
    QueueType,
    Requested,
    WorkerStatus,
)

SCHEMA = "pyfi"

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def _enum(kind: type, name: str) -> Enum:
    return Enum(kind, name=name, schema=SCHEMA, values_callable=lambda members: [member.value for member in members])


PROCESSOR_STATUS = _enum(ProcessorStatus, "processor_status")
REQUESTED = _enum(Requested, "requested_status")
WORKER_STATUS = _enum(WorkerStatus, "worker_status")
JOB_STATUS = _enum(JobStatus, "job_status")
NODE_STATUS = _enum(NodeStatus, "node_status")
OUTCOME_STATUS = _enum(OutcomeStatus, "outcome_status")
HOLD_STATE = _enum(HoldState, "hold_state")
ATTEMPT_STATUS = _enum(AttemptStatus, "attempt_status")
CAUSE = _enum(Cause, "cause")
QUEUE_TYPE = _enum(QueueType, "queue_type")


class Base(DeclarativeBase):
    """Everything lives in schema `pyfi`."""

    metadata = MetaData(schema=SCHEMA, naming_convention=_NAMING)
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it from the class)
        datetime.datetime: DateTime(timezone=True),
        uuid.UUID: UUID(as_uuid=True),
        bytes: LargeBinary,
        str: Text,
        dict[str, Any]: JSONB(none_as_null=True),
        float: Double,
        list[int]: ARRAY(Integer),
        list[str]: ARRAY(Text),
        list[Any]: JSONB(none_as_null=True),
    }


class Owned:
    """What every object has: an id, its owner, when it was made and changed, and how often what is wanted changed."""

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    owner: Mapped[str] = mapped_column(server_default=text("session_user"))
    created: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    updated: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    generation: Mapped[int] = mapped_column(server_default=text("1"))


class Network(Owned, Base):
    """A closed world of names; `default` is made with the schema."""

    __tablename__ = "network"
    name: Mapped[str]
    #: when the last reconcile pass over it began, and how long that took (`control.reconcile`)
    passed: Mapped[datetime.datetime | None]
    pass_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    __table_args__ = (UniqueConstraint("name"),)


class Queue(Owned, Base):
    """A logical queue: an exchange that task queues are bound to."""

    __tablename__ = "queue"
    network_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("network.id", ondelete="RESTRICT"))
    name: Mapped[str]
    type: Mapped[QueueType] = mapped_column(QUEUE_TYPE, server_default="direct")
    max_length: Mapped[int | None]
    #: what RabbitMQ makes of it: `quorum`, or `classic`, which is quicker and not replicated
    kind: Mapped[str] = mapped_column(server_default=text("'quorum'"))
    network: Mapped[Network] = relationship(lazy="joined")
    __table_args__ = (
        UniqueConstraint("network_id", "name"),
        CheckConstraint("max_length IS NULL OR max_length > 0", name="max_length"),
        CheckConstraint("kind IN ('quorum', 'classic')", name="kind"),
    )


class TaskQueue(Base):
    """A durable queue of the broker: one task bound to one logical queue, in one generation.

    Calls of another priority than the usual have one of their own, made when the first is sent: its `task_key` ends in
    that priority (`model.priority`). That of a fifo socket ends in `.fifo`.

    A generation is never used again, also when queue and socket are deleted and made anew: a broker's queue of an old
    name may still be on its way out.
    """

    __tablename__ = "task_queue"
    queue_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("queue.id", ondelete="RESTRICT"), primary_key=True)
    task_key: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(server_default=text("nextval('pyfi.task_queue_generation')"))
    #: when the broker confirmed that it exists; publishers keep off a young one (brokers.rabbitmq says why)
    declared: Mapped[datetime.datetime | None]


Sequence("task_queue_generation", schema=SCHEMA, metadata=Base.metadata)


class Processor(Owned, Base):
    """Code at one commit that offers tasks, and how many workers it wants where."""

    __tablename__ = "processor"
    network_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("network.id", ondelete="RESTRICT"))
    name: Mapped[str]
    repository: Mapped[str]
    branch: Mapped[str | None]
    commit: Mapped[str]
    module: Mapped[str]
    default_task: Mapped[str | None]
    host: Mapped[str | None]
    requirements: Mapped[str | None]
    python: Mapped[str | None]
    #: wanted workers; NULL: a fair share of the cores that are there
    workers: Mapped[int | None]
    cpus: Mapped[int] = mapped_column(server_default=text("1"))
    gpus: Mapped[int] = mapped_column(server_default=text("0"))
    mem_mib: Mapped[int | None]
    timeout_seconds: Mapped[float | None]
    max_attempts: Mapped[int] = mapped_column(server_default=text("3"))
    retry_delay_seconds: Mapped[float] = mapped_column(server_default=text("1"))
    requested_status: Mapped[Requested] = mapped_column(REQUESTED, server_default="RUNNING")
    status: Mapped[ProcessorStatus] = mapped_column(PROCESSOR_STATUS, server_default="STOPPED")
    #: why it is FAILED: our code, one line, and the log's tail
    reason: Mapped[dict[str, Any] | None]
    observed_generation: Mapped[int] = mapped_column(server_default=text("0"))
    #: bumped by `proc restart`: workers started for an older one are drained
    restarts: Mapped[int] = mapped_column(server_default=text("0"))
    retry_at: Mapped[datetime.datetime | None]
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    #: what to ask Slurm for when slots are missing (`model.request.ResourceRequest`); NULL: never send a pilot
    shape: Mapped[dict[str, Any] | None]
    #: when a person last asked it to run: without `workers` one pilot is sent for each such asking
    wanted_since: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    network: Mapped[Network] = relationship(lazy="joined")
    __table_args__ = (
        UniqueConstraint("network_id", "name"),
        CheckConstraint("cpus >= 1", name="cpus"),
        CheckConstraint("gpus >= 0", name="gpus"),
        CheckConstraint("workers IS NULL OR workers >= 1", name="workers"),
        CheckConstraint("max_attempts >= 1", name="max_attempts"),
        CheckConstraint("commit ~ '^[0-9a-f]{40}$'", name="commit"),
        CheckConstraint("timeout_seconds IS NULL OR timeout_seconds > 0", name="timeout_seconds"),
        CheckConstraint("retry_delay_seconds >= 0", name="retry_delay_seconds"),
        CheckConstraint("mem_mib IS NULL OR mem_mib > 0", name="mem_mib"),
    )


class Socket(Owned, Base):
    """One task of a processor behind a queue: where invocations enter. `outlet` is its old name."""

    __tablename__ = "socket"
    network_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("network.id", ondelete="RESTRICT"))
    name: Mapped[str]
    processor_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("processor.id", ondelete="RESTRICT"))
    queue_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("queue.id", ondelete="RESTRICT"))
    task: Mapped[str]
    task_key: Mapped[str]
    #: which keys of a topic queue reach it
    binding: Mapped[str] = mapped_column(server_default=text("'#'"))
    timeout_seconds: Mapped[float | None]
    #: parameters as recorded from the source at the pinned commit: name, kind, has_default
    signature: Mapped[dict[str, Any] | None]
    source: Mapped[str | None]
    #: how many priorities its calls may have: 1 the usual one alone, 2 also high, 3 also low
    priorities: Mapped[int] = mapped_column(server_default=text("3"))
    #: `none`, or `fifo`: one call at a time, in the order in which they were accepted
    ordering: Mapped[str] = mapped_column(server_default=text("'none'"))
    processor: Mapped[Processor] = relationship(lazy="joined")
    queue: Mapped[Queue] = relationship(lazy="joined")
    __table_args__ = (
        UniqueConstraint("network_id", "name"),
        CheckConstraint("timeout_seconds IS NULL OR timeout_seconds > 0", name="timeout_seconds"),
        CheckConstraint("priorities BETWEEN 1 AND 3", name="priorities"),
        CheckConstraint("ordering = 'none' OR ordering = 'fifo' AND priorities = 1", name="ordering"),
        Index(None, "queue_id"),
        Index(None, "processor_id"),
    )


class Plug(Owned, Base):
    """Carries results of a processor's sockets (or of one) to the tasks bound to a queue (or to one socket)."""

    __tablename__ = "plug"
    network_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("network.id", ondelete="RESTRICT"))
    name: Mapped[str]
    processor_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("processor.id", ondelete="RESTRICT"))
    source_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("socket.id", ondelete="RESTRICT"))
    queue_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("queue.id", ondelete="RESTRICT"))
    target_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("socket.id", ondelete="RESTRICT"))
    #: the routing key it sends with; only a topic queue looks at it
    key: Mapped[str] = mapped_column(server_default=text("''"))
    #: `auto`: by a pipe where one can be had; `broker`: never
    route: Mapped[str] = mapped_column(server_default=text("'auto'"))
    #: how many results went by pipes and by queues, and when the last of each did, as agents have told
    piped: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    queued: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    piped_at: Mapped[datetime.datetime | None]
    queued_at: Mapped[datetime.datetime | None]
    #: how many of those that went by pipes went to another node, and when the last did
    far: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    far_at: Mapped[datetime.datetime | None]
    processor: Mapped[Processor] = relationship(lazy="joined")
    queue: Mapped[Queue] = relationship(lazy="joined")
    __table_args__ = (
        UniqueConstraint("network_id", "name"),
        CheckConstraint("route IN ('auto', 'broker')", name="route"),
        Index(None, "processor_id"),
        Index(None, "queue_id"),
    )


class Scheduler(Owned, Base):
    """Reconciles one cluster. Several processes may serve it, the one whose lease is current leads."""

    __tablename__ = "scheduler"
    network_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("network.id", ondelete="RESTRICT"))
    name: Mapped[str]
    #: Slurm's ClusterName, once somebody has asked
    cluster: Mapped[str] = mapped_column(server_default=text("''"))
    #: who leads: one word for the process (host:pid:nonce)
    holder: Mapped[str | None]
    #: bumped by each taking of the lease; every write of a leader names it
    epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    lease_until: Mapped[datetime.datetime | None]
    #: when Slurm last answered, and why it does not now
    polled: Mapped[datetime.datetime | None]
    problem: Mapped[str | None]
    #: how often Slurm was asked anything
    queries: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    __table_args__ = (UniqueConstraint("network_id", "name"),)


class Job(Owned, Base):
    """One request to Slurm, on record before Slurm is asked, and the job that came of it."""

    __tablename__ = "job"
    network_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("network.id", ondelete="RESTRICT"))
    scheduler_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("scheduler.id", ondelete="RESTRICT"))
    #: whose workers its slots are for
    processor_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("processor.id", ondelete="RESTRICT"))
    #: 32 hex digits in the job's comment: by it a job is adopted after an uncertain sbatch
    token: Mapped[str]
    #: `model.request.ResourceRequest`
    request: Mapped[dict[str, Any]]
    #: slots that it brings
    workers: Mapped[int]
    #: the finished job script, and the sbatch line that hands it over
    script: Mapped[str] = mapped_column(server_default=text("''"))
    command: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    status: Mapped[JobStatus] = mapped_column(JOB_STATUS, server_default="WANTED")
    #: Slurm's job id; NULL until it is known
    slurm_id: Mapped[str | None]
    #: Slurm's count of restarts: with the job id it names the incarnation
    restarts: Mapped[int] = mapped_column(server_default=text("0"))
    #: Slurm's own words
    slurm_state: Mapped[str | None]
    slurm_reason: Mapped[str | None]
    node_list: Mapped[str | None]
    exit_code: Mapped[str | None]
    #: why it ended, or is not submitted, in ours
    reason: Mapped[str | None]
    output: Mapped[str | None]
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    #: submissions that failed, and when to try again
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    retry_at: Mapped[datetime.datetime | None]
    #: a token that was looked for and not found, first at
    missed: Mapped[datetime.datetime | None]
    submitted: Mapped[datetime.datetime | None]
    started: Mapped[datetime.datetime | None]
    ends_at: Mapped[datetime.datetime | None]
    ended: Mapped[datetime.datetime | None]
    observed: Mapped[datetime.datetime | None]
    scheduler: Mapped[Scheduler] = relationship(lazy="joined")
    __table_args__ = (
        UniqueConstraint("token"),
        CheckConstraint("workers >= 1", name="workers"),
        CheckConstraint("token ~ '^[0-9a-f]{32}$'", name="token"),
        Index(None, "scheduler_id"),
        Index(None, "processor_id", "created"),
        Index("ix_job_live", "scheduler_id", postgresql_where=text("status <> 'ENDED'")),
    )


class Node(Owned, Base):
    """A host, known by cluster and host name. `name` is what people call it."""

    __tablename__ = "node"
    network_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("network.id", ondelete="RESTRICT"))
    name: Mapped[str]
    cluster: Mapped[str] = mapped_column(server_default=text("''"))
    host: Mapped[str]
    cpus: Mapped[int | None]
    mem_mib: Mapped[int | None]
    status: Mapped[NodeStatus] = mapped_column(NODE_STATUS, server_default="DOWN")
    drain_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    #: who may send pilots to it; NULL: nobody, its agent was started by hand
    scheduler_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("scheduler.id", ondelete="RESTRICT"))
    #: workers may share cores here when there are more processors than cores (a laptop)
    shared_cores: Mapped[bool] = mapped_column(server_default=text("false"))
    __table_args__ = (
        UniqueConstraint("network_id", "name"),
        UniqueConstraint("network_id", "cluster", "host"),
        CheckConstraint("cpus IS NULL OR cpus >= 1", name="cpus"),
    )


class Agent(Owned, Base):
    """One incarnation of the daemon on a node. Its lease is renewed by the database's clock."""

    __tablename__ = "agent"
    node_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("node.id", ondelete="RESTRICT"))
    pid: Mapped[int]
    #: what tells the process from any other that has its number (`processes.fingerprint`)
    process: Mapped[str | None]
    cores: Mapped[list[int]]
    version: Mapped[str]
    epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    lease_until: Mapped[datetime.datetime]
    started: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    ended: Mapped[datetime.datetime | None]
    stop_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    #: the job that it runs in, which incarnation of it, and when Slurm ends it; NULL: started by hand
    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("job.id", ondelete="RESTRICT"))
    incarnation: Mapped[int] = mapped_column(server_default=text("0"))
    ends_at: Mapped[datetime.datetime | None]
    #: what the job was granted here, `[{"cores": [0], "devices": ["GPU-…"]}]`; NULL: workers share the node's cores
    slots: Mapped[list[Any] | None]
    #: it did not end by itself, and for what cause as far as is known by now (`control.losses`)
    lost: Mapped[Cause | None] = mapped_column(CAUSE)
    #: where it listens to other agents of its job, and by which public key; NULL: its pipes stay on the node
    pipe_address: Mapped[str | None]
    pipe_key: Mapped[str | None]
    node: Mapped[Node] = relationship(lazy="joined")
    __table_args__ = (
        Index(None, "node_id"),
        Index(None, "job_id"),
        # those that have ended stay: a pass must not read them all
        Index("ix_agent_live", "node_id", postgresql_where=text("ended IS NULL")),
        Index("ix_agent_lost", "job_id", postgresql_where=text("lost = 'agent_lost'")),
    )


class Device(Owned, Base):
    """One GPU, or MIG instance, of a node. Its UUID is its identity: an index changes with what a job was granted."""

    __tablename__ = "device"
    node_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("node.id", ondelete="RESTRICT"))
    uuid: Mapped[str]
    #: of a MIG instance: the GPU's UUID
    parent: Mapped[str | None]
    model: Mapped[str]
    mem_mib: Mapped[int]
    #: the cores of its NUMA node; NULL where the driver does not tell
    cores: Mapped[list[int] | None]
    #: the newest sample; NULL where the driver does not tell
    utilization: Mapped[float | None]
    mem_used_mib: Mapped[int | None]
    temperature_celsius: Mapped[int | None]
    power_watts: Mapped[float | None]
    sampled: Mapped[datetime.datetime | None]
    __table_args__ = (UniqueConstraint("node_id", "uuid"),)


class Worker(Owned, Base):
    """One process that runs tasks, on one core or a set of cores; kept after its end, so that outcomes can name it."""

    __tablename__ = "worker"
    processor_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("processor.id", ondelete="RESTRICT"))
    node_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("node.id", ondelete="RESTRICT"))
    agent_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("agent.id", ondelete="RESTRICT"))
    cores: Mapped[list[int]]
    #: which of its agent's slots it has; NULL where the agent has none
    slot: Mapped[int | None]
    #: UUIDs of its GPUs
    devices: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    pid: Mapped[int | None]
    commit: Mapped[str]
    #: of the processor when it was planned; a worker of another version is replaced
    version: Mapped[str] = mapped_column(server_default=text("''"))
    environment: Mapped[str | None]
    status: Mapped[WorkerStatus] = mapped_column(WORKER_STATUS, server_default="PLANNED")
    reason: Mapped[str | None]
    calls: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    #: the call that it runs, once it has done so for a second, and since when; written within another second.
    #: Of one that is LOST: what it ran when it was last heard of
    running: Mapped[uuid.UUID | None]
    running_since: Mapped[datetime.datetime | None]
    ended: Mapped[datetime.datetime | None]
    __table_args__ = (
        Index(None, "processor_id"),
        Index(None, "agent_id"),
        Index("ix_worker_running", "running", postgresql_where=text("running IS NOT NULL")),
        Index("ix_worker_live", "processor_id", postgresql_where=text("status NOT IN ('EXITED', 'LOST')")),
    )


class Outcome(Base):
    """What came of an invocation: the one row that decides it. Final rows never change (a trigger sees to it)."""

    __tablename__ = "outcome"
    owner: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    status: Mapped[OutcomeStatus] = mapped_column(OUTCOME_STATUS)
    #: `wire.values` bytes, or a blob reference; NULL unless SUCCEEDED, or after `forget`
    value: Mapped[bytes | None]
    #: `wire.messages.ErrorRecord` bytes; NULL where SUCCEEDED
    error: Mapped[bytes | None]
    digest: Mapped[bytes | None]
    socket_id: Mapped[uuid.UUID | None]
    serial: Mapped[int] = mapped_column(server_default=text("1"))
    worker_id: Mapped[uuid.UUID | None]
    parent: Mapped[uuid.UUID | None]
    started: Mapped[datetime.datetime | None]
    ended: Mapped[datetime.datetime | None]
    committed: Mapped[datetime.datetime] = mapped_column(server_default=func.clock_timestamp())
    #: the routes chosen when it was committed (`wire.messages.Route` tuple); NULL for none
    routes: Mapped[bytes | None]
    #: when its value went: by `forget` or by retention (a trigger writes it)
    cleared: Mapped[datetime.datetime | None]
    __table_args__ = (
        Index("ix_outcome_valued", "committed", postgresql_where=text("value IS NOT NULL")),
        Index("ix_outcome_bare", "committed", postgresql_where=text("value IS NULL")),
        Index("ix_outcome_blob", text("substring(value, 4, 32)"), postgresql_where=text("octet_length(value) = 43")),
    )


class Attempt(Base):
    """An execution worth remembering: it failed, it printed, or it was announced before it started.

    Serial 0 is a first execution that was lost with its node before anything was written about it: the delivery came
    back as it was, so that the next one has serial 1 as well.
    """

    __tablename__ = "attempt"
    owner: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    serial: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[AttemptStatus] = mapped_column(ATTEMPT_STATUS)
    cause: Mapped[Cause | None] = mapped_column(CAUSE)
    error: Mapped[bytes | None]
    socket_id: Mapped[uuid.UUID | None]
    worker_id: Mapped[uuid.UUID | None]
    agent_id: Mapped[uuid.UUID | None]
    started: Mapped[datetime.datetime | None]
    ended: Mapped[datetime.datetime | None]
    #: the last 64 KiB of what it printed
    out: Mapped[bytes | None]
    err: Mapped[bytes | None]
    __table_args__ = (
        Index("ix_attempt_time", text("coalesce(ended, started)")),
        Index("ix_attempt_unsure", "agent_id", postgresql_where=text("status = 'STARTED' OR cause = 'agent_lost'")),
    )


class Hold(Base):
    """An invocation that cannot go the straight way: to be retried, delayed, leased, parked or dead."""

    __tablename__ = "hold"
    owner: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    state: Mapped[HoldState] = mapped_column(HOLD_STATE)
    due: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    #: the next attempt's number: a delivery with a lower one is stale
    serial: Mapped[int]
    #: attempts that spent the budget, and returns that did not
    used: Mapped[int] = mapped_column(server_default=text("0"))
    returns: Mapped[int] = mapped_column(server_default=text("0"))
    epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    holder: Mapped[uuid.UUID | None]
    #: a `wire.messages.Message` of one call, as it is to be published
    payload: Mapped[bytes]
    exchange: Mapped[str]
    key: Mapped[str]
    socket_id: Mapped[uuid.UUID | None]
    created: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    __table_args__ = (Index(None, "due", postgresql_where=text("state IN ('DUE', 'LEASED')")),)


class Stream(Base):
    """A call that yields and has not ended: which attempt its items are taken from."""

    __tablename__ = "stream"
    owner: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    attempt: Mapped[uuid.UUID]
    created: Mapped[datetime.datetime] = mapped_column(server_default=func.now())


class Quarantine(Base):
    """A message that no outcome can be written for: kept whole, with the reason."""

    __tablename__ = "quarantine"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    owner: Mapped[str] = mapped_column(server_default=text("session_user"))
    network: Mapped[str]
    reason: Mapped[str]
    detail: Mapped[str]
    exchange: Mapped[str] = mapped_column(server_default=text("''"))
    key: Mapped[str] = mapped_column(server_default=text("''"))
    body: Mapped[bytes]


class Event(Base):
    """Who or what changed which object, and when."""

    __tablename__ = "event"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime.datetime] = mapped_column(server_default=func.clock_timestamp())
    owner: Mapped[str] = mapped_column(server_default=text("session_user"))
    kind: Mapped[str]
    object_id: Mapped[uuid.UUID | None]
    name: Mapped[str] = mapped_column(server_default=text("''"))
    what: Mapped[str]
    detail: Mapped[dict[str, Any] | None]
    __table_args__ = (Index(None, "at"),)
