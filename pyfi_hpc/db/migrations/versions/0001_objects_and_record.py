"""The objects, the record of what came of every invocation, and the guards over both.

Revision ID: 0001
Revises: none
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TYPES = """
CREATE TYPE pyfi.queue_type AS ENUM ('direct', 'topic', 'fanout');
CREATE TYPE pyfi.requested_status AS ENUM ('RUNNING', 'STOPPED', 'PAUSED', 'REMOVED');
CREATE TYPE pyfi.processor_status AS ENUM (
    'STOPPED', 'STARTING', 'RUNNING', 'PAUSED', 'MOVING', 'STOPPING', 'FAILED', 'REMOVED'
);
CREATE TYPE pyfi.node_status AS ENUM ('UP', 'DRAINING', 'DOWN');
CREATE TYPE pyfi.worker_status AS ENUM ('PLANNED', 'LAUNCHING', 'READY', 'DRAINING', 'EXITED', 'LOST');
CREATE TYPE pyfi.outcome_status AS ENUM ('SUCCEEDED', 'FAILED', 'CANCELLED', 'DEAD', 'REOPENED');
CREATE TYPE pyfi.attempt_status AS ENUM ('STARTED', 'SUCCEEDED', 'FAILED');
CREATE TYPE pyfi.cause AS ENUM (
    'user_error', 'timeout', 'host_oom', 'gpu_oom', 'signal', 'worker_lost', 'agent_lost', 'returned',
    'drained', 'preempted', 'walltime', 'node_failed', 'environment', 'refused'
);
CREATE TYPE pyfi.hold_state AS ENUM ('LEASED', 'DUE', 'OUT', 'DEAD');
"""

TABLES = """
CREATE SEQUENCE pyfi.task_queue_generation;

CREATE TABLE pyfi.attempt (
    owner text NOT NULL,
    id uuid NOT NULL,
    serial integer NOT NULL,
    status pyfi.attempt_status NOT NULL,
    cause pyfi.cause,
    error bytea,
    socket_id uuid,
    worker_id uuid,
    agent_id uuid,
    started timestamptz,
    ended timestamptz,
    out bytea,
    err bytea,
    CONSTRAINT pk_attempt PRIMARY KEY (owner, id, serial)
);

CREATE TABLE pyfi.event (
    id bigint GENERATED ALWAYS AS IDENTITY,
    owner text NOT NULL DEFAULT session_user,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL,
    object_id uuid,
    name text NOT NULL DEFAULT '',
    what text NOT NULL,
    detail jsonb,
    CONSTRAINT pk_event PRIMARY KEY (id)
);
CREATE INDEX ix_event_at ON pyfi.event (at);

CREATE TABLE pyfi.hold (
    owner text NOT NULL,
    id uuid NOT NULL,
    state pyfi.hold_state NOT NULL,
    due timestamptz NOT NULL DEFAULT now(),
    serial integer NOT NULL,
    used integer NOT NULL DEFAULT 0,
    returns integer NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 1,
    holder uuid,
    payload bytea NOT NULL,
    exchange text NOT NULL,
    key text NOT NULL,
    socket_id uuid,
    created timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_hold PRIMARY KEY (owner, id)
);
CREATE INDEX ix_hold_due ON pyfi.hold (due) WHERE state IN ('DUE', 'LEASED');

CREATE TABLE pyfi.network (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner text NOT NULL DEFAULT session_user,
    name text NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now(),
    generation integer NOT NULL DEFAULT 1,
    CONSTRAINT pk_network PRIMARY KEY (id),
    CONSTRAINT uq_network_name UNIQUE (name)
);

CREATE TABLE pyfi.outcome (
    owner text NOT NULL,
    id uuid NOT NULL,
    status pyfi.outcome_status NOT NULL,
    value bytea,
    error bytea,
    digest bytea,
    socket_id uuid,
    serial integer NOT NULL DEFAULT 1,
    worker_id uuid,
    parent uuid,
    started timestamptz,
    ended timestamptz,
    committed timestamptz NOT NULL DEFAULT clock_timestamp(),
    routes bytea,
    CONSTRAINT pk_outcome PRIMARY KEY (owner, id)
);

CREATE TABLE pyfi.quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY,
    owner text NOT NULL DEFAULT session_user,
    at timestamptz NOT NULL DEFAULT now(),
    network text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    exchange text NOT NULL DEFAULT '',
    key text NOT NULL DEFAULT '',
    body bytea NOT NULL,
    CONSTRAINT pk_quarantine PRIMARY KEY (id)
);

CREATE TABLE pyfi.node (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner text NOT NULL DEFAULT session_user,
    network_id uuid NOT NULL,
    name text NOT NULL,
    cluster text NOT NULL DEFAULT '',
    host text NOT NULL,
    cpus integer,
    mem_mib integer,
    status pyfi.node_status NOT NULL DEFAULT 'DOWN',
    drain_requested boolean NOT NULL DEFAULT false,
    shared_cores boolean NOT NULL DEFAULT false,
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now(),
    generation integer NOT NULL DEFAULT 1,
    CONSTRAINT pk_node PRIMARY KEY (id),
    CONSTRAINT uq_node_network_id_name UNIQUE (network_id, name),
    CONSTRAINT uq_node_network_id_cluster_host UNIQUE (network_id, cluster, host),
    CONSTRAINT ck_node_cpus CHECK (cpus IS NULL OR cpus >= 1),
    CONSTRAINT fk_node_network_id FOREIGN KEY (network_id) REFERENCES pyfi.network (id) ON DELETE RESTRICT
);

CREATE TABLE pyfi.processor (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner text NOT NULL DEFAULT session_user,
    network_id uuid NOT NULL,
    name text NOT NULL,
    repository text NOT NULL,
    branch text,
    commit text NOT NULL,
    module text NOT NULL,
    default_task text,
    host text,
    requirements text,
    python text,
    workers integer,
    cpus integer NOT NULL DEFAULT 1,
    gpus integer NOT NULL DEFAULT 0,
    mem_mib integer,
    timeout_seconds double precision,
    max_attempts integer NOT NULL DEFAULT 3,
    retry_delay_seconds double precision NOT NULL DEFAULT 1,
    requested_status pyfi.requested_status NOT NULL DEFAULT 'RUNNING',
    status pyfi.processor_status NOT NULL DEFAULT 'STOPPED',
    reason jsonb,
    observed_generation integer NOT NULL DEFAULT 0,
    restarts integer NOT NULL DEFAULT 0,
    retry_at timestamptz,
    failures integer NOT NULL DEFAULT 0,
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now(),
    generation integer NOT NULL DEFAULT 1,
    CONSTRAINT pk_processor PRIMARY KEY (id),
    CONSTRAINT uq_processor_network_id_name UNIQUE (network_id, name),
    CONSTRAINT ck_processor_cpus CHECK (cpus >= 1),
    CONSTRAINT ck_processor_gpus CHECK (gpus >= 0),
    CONSTRAINT ck_processor_workers CHECK (workers IS NULL OR workers >= 1),
    CONSTRAINT ck_processor_max_attempts CHECK (max_attempts >= 1),
    CONSTRAINT ck_processor_commit CHECK (commit ~ '^[0-9a-f]{40}$'),
    CONSTRAINT ck_processor_timeout_seconds CHECK (timeout_seconds IS NULL OR timeout_seconds > 0),
    CONSTRAINT ck_processor_retry_delay_seconds CHECK (retry_delay_seconds >= 0),
    CONSTRAINT ck_processor_mem_mib CHECK (mem_mib IS NULL OR mem_mib > 0),
    CONSTRAINT fk_processor_network_id FOREIGN KEY (network_id) REFERENCES pyfi.network (id) ON DELETE RESTRICT
);

CREATE TABLE pyfi.queue (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner text NOT NULL DEFAULT session_user,
    network_id uuid NOT NULL,
    name text NOT NULL,
    type pyfi.queue_type NOT NULL DEFAULT 'direct',
    max_length integer,
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now(),
    generation integer NOT NULL DEFAULT 1,
    CONSTRAINT pk_queue PRIMARY KEY (id),
    CONSTRAINT uq_queue_network_id_name UNIQUE (network_id, name),
    CONSTRAINT ck_queue_max_length CHECK (max_length IS NULL OR max_length > 0),
    CONSTRAINT fk_queue_network_id FOREIGN KEY (network_id) REFERENCES pyfi.network (id) ON DELETE RESTRICT
);

CREATE TABLE pyfi.agent (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner text NOT NULL DEFAULT session_user,
    node_id uuid NOT NULL,
    pid integer NOT NULL,
    cores integer[] NOT NULL,
    version text NOT NULL,
    epoch bigint NOT NULL DEFAULT 1,
    lease_until timestamptz NOT NULL,
    started timestamptz NOT NULL DEFAULT now(),
    ended timestamptz,
    stop_requested boolean NOT NULL DEFAULT false,
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now(),
    generation integer NOT NULL DEFAULT 1,
    CONSTRAINT pk_agent PRIMARY KEY (id),
    CONSTRAINT fk_agent_node_id FOREIGN KEY (node_id) REFERENCES pyfi.node (id) ON DELETE RESTRICT
);
CREATE INDEX ix_agent_node_id ON pyfi.agent (node_id);

CREATE TABLE pyfi.socket (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner text NOT NULL DEFAULT session_user,
    network_id uuid NOT NULL,
    name text NOT NULL,
    processor_id uuid NOT NULL,
    queue_id uuid NOT NULL,
    task text NOT NULL,
    task_key text NOT NULL,
    binding text NOT NULL DEFAULT '#',
    timeout_seconds double precision,
    signature jsonb,
    source text,
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now(),
    generation integer NOT NULL DEFAULT 1,
    CONSTRAINT pk_socket PRIMARY KEY (id),
    CONSTRAINT uq_socket_network_id_name UNIQUE (network_id, name),
    CONSTRAINT ck_socket_timeout_seconds CHECK (timeout_seconds IS NULL OR timeout_seconds > 0),
    CONSTRAINT fk_socket_network_id FOREIGN KEY (network_id) REFERENCES pyfi.network (id) ON DELETE RESTRICT,
    CONSTRAINT fk_socket_processor_id FOREIGN KEY (processor_id) REFERENCES pyfi.processor (id) ON DELETE RESTRICT,
    CONSTRAINT fk_socket_queue_id FOREIGN KEY (queue_id) REFERENCES pyfi.queue (id) ON DELETE RESTRICT
);
CREATE INDEX ix_socket_processor_id ON pyfi.socket (processor_id);
CREATE INDEX ix_socket_queue_id ON pyfi.socket (queue_id);

CREATE TABLE pyfi.task_queue (
    queue_id uuid NOT NULL,
    task_key text NOT NULL,
    generation integer NOT NULL DEFAULT nextval('pyfi.task_queue_generation'),
    declared timestamptz,
    CONSTRAINT pk_task_queue PRIMARY KEY (queue_id, task_key),
    CONSTRAINT fk_task_queue_queue_id FOREIGN KEY (queue_id) REFERENCES pyfi.queue (id) ON DELETE RESTRICT
);

CREATE TABLE pyfi.plug (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner text NOT NULL DEFAULT session_user,
    network_id uuid NOT NULL,
    name text NOT NULL,
    processor_id uuid NOT NULL,
    source_id uuid,
    queue_id uuid NOT NULL,
    target_id uuid,
    key text NOT NULL DEFAULT '',
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now(),
    generation integer NOT NULL DEFAULT 1,
    CONSTRAINT pk_plug PRIMARY KEY (id),
    CONSTRAINT uq_plug_network_id_name UNIQUE (network_id, name),
    CONSTRAINT fk_plug_network_id FOREIGN KEY (network_id) REFERENCES pyfi.network (id) ON DELETE RESTRICT,
    CONSTRAINT fk_plug_processor_id FOREIGN KEY (processor_id) REFERENCES pyfi.processor (id) ON DELETE RESTRICT,
    CONSTRAINT fk_plug_source_id FOREIGN KEY (source_id) REFERENCES pyfi.socket (id) ON DELETE RESTRICT,
    CONSTRAINT fk_plug_queue_id FOREIGN KEY (queue_id) REFERENCES pyfi.queue (id) ON DELETE RESTRICT,
    CONSTRAINT fk_plug_target_id FOREIGN KEY (target_id) REFERENCES pyfi.socket (id) ON DELETE RESTRICT
);
CREATE INDEX ix_plug_queue_id ON pyfi.plug (queue_id);
CREATE INDEX ix_plug_processor_id ON pyfi.plug (processor_id);

CREATE TABLE pyfi.worker (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner text NOT NULL DEFAULT session_user,
    processor_id uuid NOT NULL,
    node_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    cores integer[] NOT NULL,
    pid integer,
    commit text NOT NULL,
    version text NOT NULL DEFAULT '',
    environment text,
    status pyfi.worker_status NOT NULL DEFAULT 'PLANNED',
    reason text,
    calls bigint NOT NULL DEFAULT 0,
    ended timestamptz,
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now(),
    generation integer NOT NULL DEFAULT 1,
    CONSTRAINT pk_worker PRIMARY KEY (id),
    CONSTRAINT fk_worker_processor_id FOREIGN KEY (processor_id) REFERENCES pyfi.processor (id) ON DELETE RESTRICT,
    CONSTRAINT fk_worker_node_id FOREIGN KEY (node_id) REFERENCES pyfi.node (id) ON DELETE RESTRICT,
    CONSTRAINT fk_worker_agent_id FOREIGN KEY (agent_id) REFERENCES pyfi.agent (id) ON DELETE RESTRICT
);
CREATE INDEX ix_worker_agent_id ON pyfi.worker (agent_id);
CREATE INDEX ix_worker_processor_id ON pyfi.worker (processor_id);
"""

# as `db.guards.transitions_sql` wrote it
MAY_BECOME = """
CREATE FUNCTION pyfi.may_become(kind text, was text, wanted text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $body$
SELECT CASE kind
    WHEN 'outcome.status' THEN CASE was
        WHEN 'SUCCEEDED' THEN false
        WHEN 'FAILED' THEN false
        WHEN 'CANCELLED' THEN false
        WHEN 'DEAD' THEN wanted IN ('REOPENED')
        WHEN 'REOPENED' THEN wanted IN ('CANCELLED', 'DEAD', 'FAILED', 'SUCCEEDED')
    END
    WHEN 'processor.requested_status' THEN CASE was
        WHEN 'RUNNING' THEN wanted IN ('PAUSED', 'REMOVED', 'STOPPED')
        WHEN 'STOPPED' THEN wanted IN ('REMOVED', 'RUNNING')
        WHEN 'PAUSED' THEN wanted IN ('REMOVED', 'RUNNING', 'STOPPED')
        WHEN 'REMOVED' THEN false
    END
    WHEN 'processor.status' THEN CASE was
        WHEN 'STOPPED' THEN wanted IN ('FAILED', 'REMOVED', 'STARTING')
        WHEN 'STARTING' THEN wanted IN ('FAILED', 'RUNNING', 'STOPPING')
        WHEN 'RUNNING' THEN wanted IN ('FAILED', 'MOVING', 'PAUSED', 'STOPPING')
        WHEN 'PAUSED' THEN wanted IN ('FAILED', 'RUNNING', 'STOPPING')
        WHEN 'MOVING' THEN wanted IN ('FAILED', 'RUNNING', 'STOPPING')
        WHEN 'STOPPING' THEN wanted IN ('FAILED', 'STOPPED')
        WHEN 'FAILED' THEN wanted IN ('STARTING', 'STOPPED')
        WHEN 'REMOVED' THEN false
    END
    WHEN 'worker.status' THEN CASE was
        WHEN 'PLANNED' THEN wanted IN ('EXITED', 'LAUNCHING', 'LOST')
        WHEN 'LAUNCHING' THEN wanted IN ('DRAINING', 'EXITED', 'LOST', 'READY')
        WHEN 'READY' THEN wanted IN ('DRAINING', 'EXITED', 'LOST')
        WHEN 'DRAINING' THEN wanted IN ('EXITED', 'LOST')
        WHEN 'LOST' THEN wanted IN ('EXITED')
        WHEN 'EXITED' THEN false
    END
END
$body$;
"""

GUARDS = """
CREATE FUNCTION pyfi.guard_transition() RETURNS trigger LANGUAGE plpgsql AS $body$
DECLARE
    kind text := TG_TABLE_NAME || '.' || TG_ARGV[0];
    was text := to_jsonb(OLD) ->> TG_ARGV[0];
    wanted text := to_jsonb(NEW) ->> TG_ARGV[0];
BEGIN
    IF was <> wanted AND pyfi.may_become(kind, was, wanted) IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'PF001', TABLE = TG_TABLE_NAME, COLUMN = TG_ARGV[0],
            MESSAGE = format('E_BAD_TRANSITION: %s cannot go from %s to %s', kind, was, wanted);
    END IF;
    RETURN NEW;
END $body$;

CREATE FUNCTION pyfi.guard_owner() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF NEW.owner <> OLD.owner THEN
        RAISE EXCEPTION USING ERRCODE = 'PF001', TABLE = TG_TABLE_NAME, COLUMN = 'owner',
            MESSAGE = 'E_DENIED: an owner never changes';
    END IF;
    RETURN NEW;
END $body$;

-- what is decided stays: only its value may be cleared, and a dead one be reopened
CREATE FUNCTION pyfi.guard_outcome() RETURNS trigger LANGUAGE plpgsql AS $body$
DECLARE
    kept pyfi.outcome := OLD;
BEGIN
    IF NEW.value IS NULL THEN
        kept.value := NULL;
    END IF;
    IF NEW.id <> OLD.id OR NEW.owner <> OLD.owner THEN
        RAISE EXCEPTION USING ERRCODE = 'PF001', TABLE = 'outcome', COLUMN = 'id',
            MESSAGE = 'E_DENIED: the key of an outcome never changes';
    ELSIF NEW.status = 'REOPENED' AND OLD.status NOT IN ('DEAD', 'REOPENED') THEN
        RAISE EXCEPTION USING ERRCODE = 'PF001', TABLE = 'outcome', COLUMN = 'status',
            MESSAGE = format('E_BAD_TRANSITION: outcome.status cannot go from %s to REOPENED', OLD.status);
    ELSIF NEW IS DISTINCT FROM kept AND OLD.status <> 'REOPENED'
            AND pyfi.may_become('outcome.status', OLD.status::text, NEW.status::text) IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'PF001', TABLE = 'outcome', COLUMN = 'status',
            MESSAGE = format('E_FENCED: invocation %s has ended %s', OLD.id, OLD.status);
    END IF;
    RETURN NEW;
END $body$;

CREATE FUNCTION pyfi.guard_record() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF NOT pg_has_role((SELECT nspowner FROM pg_catalog.pg_namespace WHERE nspname = 'pyfi'), 'MEMBER') THEN
        RAISE EXCEPTION USING ERRCODE = 'PF001', TABLE = TG_TABLE_NAME,
            MESSAGE = 'E_DENIED: only retention removes what is decided';
    END IF;
    RETURN OLD;
END $body$;

-- `updated` is the time of the last change, `generation` counts the changes of what is wanted;
-- the arguments are the columns that say what was observed
CREATE FUNCTION pyfi.touch() RETURNS trigger LANGUAGE plpgsql AS $body$
DECLARE
    others text[] := TG_ARGV || ARRAY['created', 'updated', 'generation'];
BEGIN
    NEW.updated := now();
    NEW.generation := OLD.generation + (to_jsonb(NEW) - others <> to_jsonb(OLD) - others)::integer;
    RETURN NEW;
END $body$;
"""

TRIGGERS = """
CREATE TRIGGER guard_status BEFORE UPDATE OF status ON pyfi.processor
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_transition('status');
CREATE TRIGGER guard_requested_status BEFORE UPDATE OF requested_status ON pyfi.processor
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_transition('requested_status');
CREATE TRIGGER guard_status BEFORE UPDATE OF status ON pyfi.worker
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_transition('status');
CREATE TRIGGER guard_outcome BEFORE UPDATE ON pyfi.outcome
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_outcome();
CREATE TRIGGER guard_record BEFORE DELETE ON pyfi.outcome
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_record();

CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.network
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.queue
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.processor
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.socket
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.plug
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.node
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.agent
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.worker
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.outcome
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.attempt
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.hold
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.quarantine
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.event
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();

CREATE TRIGGER touch BEFORE UPDATE ON pyfi.network
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch();
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.queue
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch();
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.processor
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch('status', 'reason', 'observed_generation', 'retry_at', 'failures');
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.socket
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch();
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.plug
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch();
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.node
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch('cpus', 'mem_mib', 'shared_cores', 'status');
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.agent
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch('pid', 'cores', 'version', 'epoch', 'lease_until', 'started', 'ended');
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.worker
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch('pid', 'environment', 'status', 'reason', 'calls', 'ended');
"""


def upgrade() -> None:
    """Make everything in schema `pyfi`, which is there and empty."""
    op.execute(TYPES)
    op.execute(TABLES)
    op.execute(MAY_BECOME)
    op.execute(GUARDS)
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Remove everything, with what it holds."""
    op.execute(
        """
        DROP TABLE pyfi.event, pyfi.quarantine, pyfi.hold, pyfi.attempt, pyfi.outcome, pyfi.worker, pyfi.agent,
            pyfi.node, pyfi.plug, pyfi.socket, pyfi.processor, pyfi.task_queue, pyfi.queue, pyfi.network;
        DROP SEQUENCE pyfi.task_queue_generation;
        DROP FUNCTION pyfi.touch, pyfi.guard_record, pyfi.guard_outcome, pyfi.guard_owner, pyfi.guard_transition,
            pyfi.may_become;
        DROP TYPE pyfi.queue_type, pyfi.requested_status, pyfi.processor_status, pyfi.node_status, pyfi.worker_status,
            pyfi.outcome_status, pyfi.attempt_status, pyfi.cause, pyfi.hold_state;
        """
    )
