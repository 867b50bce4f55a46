"""Calls that yield: which attempt their items are taken from.

Revision ID: 0009
Revises: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it."""
    op.execute(
        """
        CREATE TABLE pyfi.stream (
            owner text NOT NULL,
            id uuid NOT NULL,
            attempt uuid NOT NULL,
            created timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT pk_stream PRIMARY KEY (owner, id)
        );
        CREATE TRIGGER guard_owner BEFORE UPDATE OF owner ON pyfi.stream
            FOR EACH ROW EXECUTE FUNCTION pyfi.guard_owner();
        """
    )


def downgrade() -> None:
    """Take it back: a call that yields then ends as an earlier program knows it, without its items."""
    op.execute("DROP TABLE pyfi.stream")
