"""Values are kept by what costs little time: Postgres' own compression spends ten times as long on numbers as lz4.

Where the server has no lz4, values of over 2 KB are kept as they are. Source: "TOAST" in PostgreSQL's manual.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From the next value on; those that are there stay as they are."""
    op.execute(
        """
        DO $body$ BEGIN
            IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)) THEN
                ALTER TABLE pyfi.outcome ALTER COLUMN value SET COMPRESSION lz4;
            ELSE
                ALTER TABLE pyfi.outcome ALTER COLUMN value SET STORAGE EXTERNAL;
            END IF;
        END $body$;
        """
    )


def downgrade() -> None:
    """As a new column would have it."""
    op.execute(
        """
        ALTER TABLE pyfi.outcome ALTER COLUMN value SET STORAGE EXTENDED;
        ALTER TABLE pyfi.outcome ALTER COLUMN value SET COMPRESSION default;
        """
    )
