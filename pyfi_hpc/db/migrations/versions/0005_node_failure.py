"""What took an agent that did not end by itself, and when the last reconcile pass over a network was.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE pyfi.agent ADD COLUMN lost pyfi.cause;
CREATE INDEX ix_agent_lost ON pyfi.agent (job_id) WHERE lost = 'agent_lost';
CREATE INDEX ix_attempt_unsure ON pyfi.attempt (agent_id) WHERE status = 'STARTED' OR cause = 'agent_lost';
ALTER TABLE pyfi.network ADD COLUMN passed timestamptz, ADD COLUMN pass_seconds double precision NOT NULL DEFAULT 0;
"""

TRIGGERS = """
DROP TRIGGER touch ON pyfi.agent;
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.agent FOR EACH ROW
    EXECUTE FUNCTION pyfi.touch('pid', 'cores', 'version', 'epoch', 'lease_until', 'started', 'ended', 'ends_at',
        'slots', 'lost');
DROP TRIGGER touch ON pyfi.network;
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.network FOR EACH ROW EXECUTE FUNCTION pyfi.touch('passed', 'pass_seconds');
"""

# as 0004 and 0001 wrote them
BEFORE = """
DROP TRIGGER touch ON pyfi.network;
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.network FOR EACH ROW EXECUTE FUNCTION pyfi.touch();
DROP TRIGGER touch ON pyfi.agent;
CREATE TRIGGER touch BEFORE UPDATE ON pyfi.agent FOR EACH ROW
    EXECUTE FUNCTION pyfi.touch('pid', 'cores', 'version', 'epoch', 'lease_until', 'started', 'ended', 'ends_at',
        'slots');
"""


def upgrade() -> None:
    """Add the columns."""
    op.execute(COLUMNS)
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Remove them, with what they hold."""
    op.execute(BEFORE)
    op.execute(
        """
        ALTER TABLE pyfi.network DROP COLUMN pass_seconds, DROP COLUMN passed;
        DROP INDEX pyfi.ix_attempt_unsure;
        ALTER TABLE pyfi.agent DROP COLUMN lost;
        """
    )
