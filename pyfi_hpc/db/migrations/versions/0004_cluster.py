"""Slurm and GPUs: schedulers, jobs, devices, and what an agent in a job was granted.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = """
CREATE TYPE pyfi.job_status AS ENUM ('WANTED', 'SUBMITTING', 'PENDING', 'RUNNING', 'ENDING', 'ENDED', 'UNKNOWN');

CREATE TABLE pyfi.scheduler (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner text NOT NULL DEFAULT session_user,
    network_id uuid NOT NULL,
    name text NOT NULL,
    cluster text NOT NULL DEFAULT '',
    holder text,
    epoch bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    polled timestamptz,
    problem text,
    queries bigint NOT NULL DEFAULT 0,
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now(),
    generation integer NOT NULL DEFAULT 1,
    CONSTRAINT pk_scheduler PRIMARY KEY (id),
    CONSTRAINT uq_scheduler_network_id_name UNIQUE (network_id, name),
    CONSTRAINT fk_scheduler_network_id FOREIGN KEY (network_id) REFERENCES pyfi.network (id) ON DELETE RESTRICT
);

CREATE TABLE pyfi.job (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner text NOT NULL DEFAULT session_user,
    network_id uuid NOT NULL,
    scheduler_id uuid NOT NULL,
    processor_id uuid,
    token text NOT NULL,
    request jsonb NOT NULL,
    workers integer NOT NULL,
    script text NOT NULL DEFAULT '',
    command text[] NOT NULL DEFAULT '{}',
    status pyfi.job_status NOT NULL DEFAULT 'WANTED',
    slurm_id text,
    restarts integer NOT NULL DEFAULT 0,
    slurm_state text,
    slurm_reason text,
    node_list text,
    exit_code text,
    reason text,
    output text,
    cancel_requested boolean NOT NULL DEFAULT false,
    failures integer NOT NULL DEFAULT 0,
    retry_at timestamptz,
    missed timestamptz,
    submitted timestamptz,
    started timestamptz,
    ends_at timestamptz,
    ended timestamptz,
    observed timestamptz,
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now(),
    generation integer NOT NULL DEFAULT 1,
    CONSTRAINT pk_job PRIMARY KEY (id),
    CONSTRAINT uq_job_token UNIQUE (token),
    CONSTRAINT ck_job_workers CHECK (workers >= 1),
    CONSTRAINT ck_job_token CHECK (token ~ '^[0-9a-f]{32}$'),
    CONSTRAINT fk_job_network_id FOREIGN KEY (network_id) REFERENCES pyfi.network (id) ON DELETE RESTRICT,
    CONSTRAINT fk_job_scheduler_id FOREIGN KEY (scheduler_id) REFERENCES pyfi.scheduler (id) ON DELETE RESTRICT,
    CONSTRAINT fk_job_processor_id FOREIGN KEY (processor_id) REFERENCES pyfi.processor (id) ON DELETE RESTRICT
);
CREATE INDEX ix_job_scheduler_id ON pyfi.job (scheduler_id);
CREATE INDEX ix_job_processor_id_created ON pyfi.job (processor_id, created);
CREATE INDEX ix_job_live ON pyfi.job (scheduler_id) WHERE status <> 'ENDED';

CREATE TABLE pyfi.device (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner text NOT NULL DEFAULT session_user,
    node_id uuid NOT NULL,
    uuid text NOT NULL,
    parent text,
    model text NOT NULL,
    mem_mib integer NOT NULL,
    cores integer[],
    utilization double precision,
    mem_used_mib integer,
    temperature_celsius integer,
    power_watts double precision,
    sampled timestamptz,
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now(),
    generation integer NOT NULL DEFAULT 1,
    CONSTRAINT pk_device PRIMARY KEY (id),
    CONSTRAINT uq_device_node_id_uuid UNIQUE (node_id, uuid),
    CONSTRAINT fk_device_node_id FOREIGN KEY (node_id) REFERENCES pyfi.node (id) ON DELETE RESTRICT
);

ALTER TABLE pyfi.processor ADD COLUMN shape jsonb,
    ADD COLUMN wanted_since timestamptz NOT NULL DEFAULT now();
ALTER TABLE pyfi.node ADD COLUMN scheduler_id uuid,
    ADD CONSTRAINT fk_node_scheduler_id FOREIGN KEY (scheduler_id) REFERENCES pyfi.scheduler (id) ON DELETE RESTRICT;
ALTER TABLE pyfi.agent ADD COLUMN job_id uuid, ADD COLUMN incarnation integer NOT NULL DEFAULT 0,
    ADD COLUMN ends_at timestamptz, ADD COLUMN slots jsonb, ADD COLUMN process text,
    ADD CONSTRAINT fk_agent_job_id FOREIGN KEY (job_id) REFERENCES pyfi.job (id) ON DELETE RESTRICT;
CREATE INDEX ix_agent_job_id ON pyfi.agent (job_id);
ALTER TABLE pyfi.worker ADD COLUMN slot integer, ADD COLUMN devices text[] NOT NULL DEFAULT '{}',
    ADD COLUMN running uuid, ADD COLUMN running_since timestamptz;
CREATE INDEX ix_worker_running ON pyfi.worker (running) WHERE running IS NOT NULL;
CREATE INDEX ix_agent_live ON pyfi.agent (node_id) WHERE ended IS NULL;
CREATE INDEX ix_worker_live ON pyfi.worker (processor_id) WHERE status NOT IN ('EXITED', 'LOST');
"""

# as `db.guards.transitions_sql` wrote it
MAY_BECOME = """
CREATE OR REPLACE FUNCTION pyfi.may_become(kind text, was text, wanted text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $body$
SELECT CASE kind
    WHEN 'job.status' THEN CASE was
        WHEN 'WANTED' THEN wanted IN ('ENDED', 'SUBMITTING')
        WHEN 'SUBMITTING' THEN wanted IN ('ENDED', 'ENDING', 'PENDING', 'RUNNING', 'UNKNOWN', 'WANTED')
        WHEN 'PENDING' THEN wanted IN ('ENDED', 'ENDING', 'RUNNING', 'UNKNOWN')
        WHEN 'RUNNING' THEN wanted IN ('ENDED', 'ENDING', 'PENDING', 'UNKNOWN')
        WHEN 'ENDING' THEN wanted IN ('ENDED', 'PENDING', 'RUNNING', 'UNKNOWN')
        WHEN 'UNKNOWN' THEN wanted IN ('ENDED', 'ENDING', 'PENDING', 'RUNNING')
        WHEN 'ENDED' THEN false
    END
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

TRIGGERS = """
CREATE TRIGGER guard_status BEFORE UPDATE OF status ON pyfi.job
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_transition('status');

CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.scheduler
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.job
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.device
    FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();

CREATE TRIGGER touch BEFORE UPDATE ON pyfi.scheduler FOR EACH ROW
    EXECUTE FUNCTION pyfi.touch('cluster', 'holder', 'epoch', 'lease_until', 'polled', 'problem', 'queries');
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.job FOR EACH ROW
    EXECUTE FUNCTION pyfi.touch('script', 'command', 'status', 'slurm_id', 'restarts', 'slurm_state', 'slurm_reason',
        'node_list', 'exit_code', 'reason', 'output', 'failures', 'retry_at', 'missed', 'submitted', 'started',
        'ends_at', 'ended', 'observed');
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.device FOR EACH ROW
    EXECUTE FUNCTION pyfi.touch('parent', 'model', 'mem_mib', 'cores', 'utilization', 'mem_used_mib',
        'temperature_celsius', 'power_watts', 'sampled');
DROP TRIGGER touch ON pyfi.node;
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.node
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch('cpus', 'mem_mib', 'shared_cores', 'status', 'scheduler_id');
DROP TRIGGER touch ON pyfi.agent;
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.agent FOR EACH ROW
    EXECUTE FUNCTION pyfi.touch('pid', 'cores', 'version', 'epoch', 'lease_until', 'started', 'ended', 'ends_at',
        'slots');
DROP TRIGGER touch ON pyfi.worker;
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.worker
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch('pid', 'environment', 'status', 'reason', 'calls', 'ended', 'running',
        'running_since');
"""

# as 0001 wrote them
BEFORE = """
DROP TRIGGER touch ON pyfi.node;
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.node
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch('cpus', 'mem_mib', 'shared_cores', 'status');
DROP TRIGGER touch ON pyfi.agent;
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.agent
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch('pid', 'cores', 'version', 'epoch', 'lease_until', 'started', 'ended');
DROP TRIGGER touch ON pyfi.worker;
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.worker
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch('pid', 'environment', 'status', 'reason', 'calls', 'ended');
CREATE OR REPLACE FUNCTION pyfi.may_become(kind text, was text, wanted text) RETURNS boolean
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


def upgrade() -> None:
    """Add the cluster's tables and columns."""
    op.execute(TABLES)
    op.execute(MAY_BECOME)
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Remove them, with what they hold."""
    op.execute(BEFORE)
    op.execute(
        """
        DROP INDEX pyfi.ix_worker_running, pyfi.ix_worker_live, pyfi.ix_agent_live;
        ALTER TABLE pyfi.worker DROP COLUMN running_since, DROP COLUMN running, DROP COLUMN devices, DROP COLUMN slot;
        ALTER TABLE pyfi.agent DROP COLUMN process, DROP COLUMN slots, DROP COLUMN ends_at, DROP COLUMN incarnation,
            DROP COLUMN job_id;
        ALTER TABLE pyfi.node DROP COLUMN scheduler_id;
        ALTER TABLE pyfi.processor DROP COLUMN wanted_since, DROP COLUMN shape;
        DROP TABLE pyfi.device, pyfi.job, pyfi.scheduler;
        DROP TYPE pyfi.job_status;
        """
    )
