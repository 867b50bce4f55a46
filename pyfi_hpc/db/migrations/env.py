"""Run by Alembic: upgrades or downgrades on the connection that `db.schema` gave, in its transaction."""

from __future__ import annotations

from alembic import context

from pyfi_hpc.db.tables import SCHEMA, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
)
context.run_migrations()
