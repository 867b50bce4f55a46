"""Pipes between nodes: where an agent listens to others of its job and by which key, and what went that way.

Revision ID: 0011
Revises: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.execute(
        """
        ALTER TABLE pyfi.agent
            ADD COLUMN pipe_address text,
            ADD COLUMN pipe_key text;
        ALTER TABLE pyfi.plug
            ADD COLUMN far bigint NOT NULL DEFAULT 0,
            ADD COLUMN far_at timestamptz;
        DROP TRIGGER touch ON pyfi.plug;
        CREATE TRIGGER touch BEFORE UPDATE ON pyfi.plug
            FOR EACH ROW EXECUTE FUNCTION pyfi.touch('piped', 'queued', 'piped_at', 'queued_at', 'far', 'far_at');
        """
    )


def downgrade() -> None:
    """Remove them."""
    op.execute(
        """
        DROP TRIGGER touch ON pyfi.plug;
        CREATE TRIGGER touch BEFORE UPDATE ON pyfi.plug
            FOR EACH ROW EXECUTE FUNCTION pyfi.touch('piped', 'queued', 'piped_at', 'queued_at');
        ALTER TABLE pyfi.plug DROP COLUMN far_at, DROP COLUMN far;
        ALTER TABLE pyfi.agent DROP COLUMN pipe_key, DROP COLUMN pipe_address;
        """
    )
