"""How a socket's calls are queued: priorities, order, kinds of queues.

Revision ID: 0007
Revises: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE pyfi.queue
    ADD COLUMN kind text NOT NULL DEFAULT 'quorum',
    ADD CONSTRAINT ck_queue_kind CHECK (kind IN ('quorum', 'classic'));
ALTER TABLE pyfi.socket
    ADD COLUMN priorities integer NOT NULL DEFAULT 3,
    ADD COLUMN ordering text NOT NULL DEFAULT 'none',
    ADD CONSTRAINT ck_socket_priorities CHECK (priorities BETWEEN 1 AND 3),
    ADD CONSTRAINT ck_socket_ordering CHECK (ordering = 'none' OR ordering = 'fifo' AND priorities = 1);
ALTER TABLE pyfi.broker_queue
    ADD COLUMN single boolean NOT NULL DEFAULT false,
    ADD COLUMN active integer;
"""


def upgrade() -> None:
    """Add the columns."""
    op.execute(COLUMNS)


def downgrade() -> None:
    """Remove them."""
    op.execute(
        """
        ALTER TABLE pyfi.broker_queue DROP COLUMN active, DROP COLUMN single;
        ALTER TABLE pyfi.socket DROP COLUMN ordering, DROP COLUMN priorities;
        ALTER TABLE pyfi.queue DROP COLUMN kind;
        """
    )
