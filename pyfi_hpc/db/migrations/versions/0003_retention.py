"""What retention needs: to find what is old, to know when a value went, and the one way to remove a key.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# an outcome is in one of the first two at a time, so that committing one writes to a single index more; the third
# holds claim checks only (43 bytes: a mark of three, the digest, the size)
FINDING = """
ALTER TABLE pyfi.outcome ADD COLUMN cleared timestamptz;
CREATE INDEX ix_outcome_valued ON pyfi.outcome (committed) WHERE value IS NOT NULL;
CREATE INDEX ix_outcome_bare ON pyfi.outcome (committed) WHERE value IS NULL;
CREATE INDEX ix_outcome_blob ON pyfi.outcome (substring(value, 4, 32)) WHERE octet_length(value) = 43;
CREATE INDEX ix_attempt_time ON pyfi.attempt (coalesce(ended, started));
"""

# as 0001 wrote it, and it notes the time at which a value is cleared
GUARD = """
CREATE OR REPLACE FUNCTION pyfi.guard_outcome() RETURNS trigger LANGUAGE plpgsql AS $body$
DECLARE
    kept pyfi.outcome := OLD;
BEGIN
    IF NEW.value IS NULL THEN
        kept.value := NULL;
    END IF;
    IF NEW.value IS NULL AND OLD.value IS NOT NULL THEN
        NEW.cleared := clock_timestamp();
        kept.cleared := NEW.cleared;
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
"""

# RELIABILITY 1.16. The ordinary role may call it and cannot delete otherwise; how young a key may go is decided here:
# a day of retention at the least, and seven days without its value. `reached` is where to go on, NULL at the end.
REMOVE = """
CREATE FUNCTION pyfi.remove_keys(older_than interval, after timestamptz, most integer,
    OUT removed bigint, OUT reached timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pyfi, pg_temp AS $body$
BEGIN
    IF older_than IS NULL OR now() - older_than > now() - interval '8 days' THEN
        RAISE EXCEPTION USING ERRCODE = 'PF001', TABLE = 'outcome', COLUMN = 'committed',
            MESSAGE = 'E_RANGE: a key stays for 8 days at least';
    ELSIF after IS NULL OR most IS NULL OR most NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION USING ERRCODE = 'PF001', TABLE = 'outcome', COLUMN = 'committed',
            MESSAGE = 'E_RANGE: from 1 to 10000 keys are looked at at once';
    END IF;
    WITH old AS MATERIALIZED (
        SELECT o.owner, o.id, o.committed FROM pyfi.outcome o
        WHERE o.value IS NULL AND o.committed >= after AND o.committed < now() - older_than
        ORDER BY o.committed LIMIT most
    ), gone AS (
        DELETE FROM pyfi.outcome o USING old
        WHERE o.owner = old.owner AND o.id = old.id AND o.value IS NULL AND o.committed < now() - older_than
            AND o.status <> 'REOPENED' AND (o.cleared IS NULL OR o.cleared < now() - interval '7 days')
            AND NOT EXISTS (SELECT FROM pyfi.hold h WHERE h.owner = o.owner AND h.id = o.id)
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone), CASE WHEN count(*) >= most THEN max(old.committed) END
    INTO removed, reached FROM old;
    IF removed = 0 AND reached = after THEN
        -- more rows of one microsecond than are looked at, and all are to stay
        reached := reached + interval '1 microsecond';
    END IF;
END $body$;

REVOKE ALL ON FUNCTION pyfi.remove_keys FROM PUBLIC;
"""

# whoever works with outcomes already; `db.schema` grants it to those who come later
GRANT = """
DO $body$
DECLARE
    ordinary regrole;
BEGIN
    FOR ordinary IN
        SELECT DISTINCT a.grantee FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = 'pyfi.outcome'::regclass AND a.privilege_type = 'DELETE' AND a.grantee NOT IN (0, c.relowner)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION pyfi.remove_keys TO %s', ordinary);
    END LOOP;
END $body$;
"""


def upgrade() -> None:
    """Make it."""
    op.execute(FINDING)
    op.execute(GUARD)
    op.execute(REMOVE)
    op.execute(GRANT)


def downgrade() -> None:
    """Take it back; 0001's guard is made anew from what stands there, less the lines about `cleared`."""
    lines = """    IF NEW.value IS NULL AND OLD.value IS NOT NULL THEN
        NEW.cleared := clock_timestamp();
        kept.cleared := NEW.cleared;
    END IF;
"""
    op.execute("DROP FUNCTION pyfi.remove_keys")
    op.execute(GUARD.replace(lines, ""))
    op.execute(
        """
        DROP INDEX pyfi.ix_outcome_valued, pyfi.ix_outcome_bare, pyfi.ix_outcome_blob, pyfi.ix_attempt_time;
        ALTER TABLE pyfi.outcome DROP COLUMN cleared;
        """
    )
