"""The tables of the embedded broker.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE pyfi.broker_queue (
    id integer GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    network text NOT NULL,
    exchange text NOT NULL,
    key text NOT NULL,
    generation integer NOT NULL,
    max_length integer,
    CONSTRAINT pk_broker_queue PRIMARY KEY (id),
    CONSTRAINT uq_broker_queue_name UNIQUE (name)
);
CREATE INDEX ix_broker_queue_exchange_key ON pyfi.broker_queue (exchange, key);

CREATE TABLE pyfi.broker_consumer (
    id integer GENERATED ALWAYS AS IDENTITY,
    lease_until timestamptz NOT NULL,
    queues text[] NOT NULL,
    CONSTRAINT pk_broker_consumer PRIMARY KEY (id)
) WITH (fillfactor = 50);

CREATE TABLE pyfi.broker_message (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    queue integer NOT NULL,
    consumer integer,
    delivery_count integer NOT NULL DEFAULT 0,
    message_id text NOT NULL,
    content_type text NOT NULL,
    headers jsonb NOT NULL DEFAULT '{}',
    sent timestamptz NOT NULL DEFAULT now(),
    body bytea NOT NULL,
    CONSTRAINT pk_broker_message PRIMARY KEY (seq)
);
CREATE INDEX ix_broker_message_ready ON pyfi.broker_message (queue, seq) WHERE consumer IS NULL;
CREATE INDEX ix_broker_message_held ON pyfi.broker_message (consumer) WHERE consumer IS NOT NULL;
"""

# rows live for milliseconds: vacuum often, by count and not by share, and do not spend time on compressing a body
SETTINGS = """
ALTER TABLE pyfi.broker_message ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE pyfi.broker_message SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 10000,
    toast.autovacuum_vacuum_cost_delay = 0
);
"""


def upgrade() -> None:
    """Make the tables."""
    op.execute(TABLES)
    op.execute(SETTINGS)


def downgrade() -> None:
    """Remove them, with every message."""
    op.execute("DROP TABLE pyfi.broker_message; DROP TABLE pyfi.broker_consumer; DROP TABLE pyfi.broker_queue")
