"""Which way a plug's results go: by the broker where that is wanted, and how many went by pipes and by queues.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE pyfi.plug
    ADD COLUMN route text NOT NULL DEFAULT 'auto',
    ADD COLUMN piped bigint NOT NULL DEFAULT 0,
    ADD COLUMN queued bigint NOT NULL DEFAULT 0,
    ADD COLUMN piped_at timestamptz,
    ADD COLUMN queued_at timestamptz,
    ADD CONSTRAINT ck_plug_route CHECK (route IN ('auto', 'broker'));
DROP TRIGGER touch ON pyfi.plug;
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.plug
    FOR EACH ROW EXECUTE FUNCTION pyfi.touch('piped', 'queued', 'piped_at', 'queued_at');
"""


def upgrade() -> None:
    """Add the columns."""
    op.execute(COLUMNS)


def downgrade() -> None:
    """Remove them."""
    op.execute(
        """
        DROP TRIGGER touch ON pyfi.plug;
        CREATE TRIGGER touch BEFORE UPDATE ON pyfi.plug FOR EACH ROW EXECUTE FUNCTION pyfi.touch();
        ALTER TABLE pyfi.plug DROP COLUMN queued_at, DROP COLUMN piped_at, DROP COLUMN queued, DROP COLUMN piped,
            DROP COLUMN route;
        """
    )
