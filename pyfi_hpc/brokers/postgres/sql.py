"""Every statement of the embedded broker."""

from __future__ import annotations

import re


class Prepared:
    """A statement that a session plans once: planning what the hot path asks takes as long as running it."""

    def __init__(self, name: str, statement: str) -> None:
        """`statement` has `%(name)s` for its parameters, whose types follow from where they stand."""
        names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
        numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", statement)
        self.name = name
        self.prepare = f"PREPARE {name} AS {numbered}"
        self.execute = f"EXECUTE {name} ({', '.join(f'%({each})s' for each in names)})"


#: First half of the advisory locks' keys: "pyfi" as four bytes; the second is the consumer's id.
LOCK_SPACE = 0x70796669

LEASE = "interval '10 seconds'"

#: One round trip for a batch: find the queues, count where a limit asks for it, insert in order, wake the consumers
#: with the lowest new number.
#: Prepared, since planning it takes as long as running it.
#: A message that is not the first of its batch in a queue counts those before it (`nth`).
PREPARE_PUBLISH = """
PREPARE publish (text[], text[], bool[], int[], int[], text[], text[], jsonb[], bytea[]) AS
WITH way AS MATERIALIZED (
    SELECT w.number, q.id, q.name, q.max_length,
           CASE WHEN w.counted AND q.max_length IS NOT NULL THEN q.max_length - (
               SELECT count(*) FROM (
                   SELECT FROM pyfi.broker_message m WHERE m.queue = q.id AND m.consumer IS NULL LIMIT q.max_length
               ) AS ready
           ) END AS room
    FROM unnest($1, $2, $3) WITH ORDINALITY AS w(exchange, key, counted, number)
    CROSS JOIN LATERAL (
        SELECT * FROM pyfi.broker_queue b WHERE b.exchange = w.exchange AND b.key = w.key
        ORDER BY b.generation DESC LIMIT 1
    ) AS q
), placed AS (
    INSERT INTO pyfi.broker_message (queue, message_id, content_type, headers, body)
    SELECT way.id, s.message_id, s.content_type, s.headers, s.body
    FROM unnest($4, $5, $6, $7, $8, $9) WITH ORDINALITY AS s(way, nth, message_id, content_type, headers, body, at)
    JOIN way ON way.number = s.way
    WHERE way.room IS NULL OR s.nth < way.room
    ORDER BY s.at
    RETURNING queue, seq
)
SELECT number, name, room,
       pg_notify('pyfi_q_' || md5(name), (SELECT min(seq) FROM placed WHERE placed.queue = way.id)::text)
FROM way
"""
PUBLISH = """
EXECUTE publish (%(exchanges)s::text[], %(keys)s::text[], %(counted)s::bool[], %(ways)s::int[], %(nths)s::int[],
                 %(ids)s::text[], %(types)s::text[], %(headers)s::jsonb[], %(bodies)s::bytea[])
"""

#: Plans must not depend on statistics of a table that is empty one moment and long the next.
STEADY_PLANS = "SET enable_seqscan TO off; SET plan_cache_mode TO force_generic_plan"

#: Hints need no disk: they may be lost.
NOTIFY = Prepared(
    "say",
    """
SELECT set_config('synchronous_commit', 'off', true), pg_notify(channel, payload)
FROM unnest(%(channels)s::text[], %(payloads)s::text[]) AS h(channel, payload)
""",
)

#: The row is seen by others only after the statement, when its lock is held.
ENTER = f"""
WITH me AS (
    INSERT INTO pyfi.broker_consumer (lease_until, queues)
    VALUES (clock_timestamp() + {LEASE}, %(queues)s::text[]) RETURNING id
)
SELECT id, pg_advisory_lock(%(space)s, id) FROM me
"""
RENEW = f"""
UPDATE pyfi.broker_consumer SET lease_until = clock_timestamp() + {LEASE}, queues = %(queues)s::text[]
WHERE id = %(me)s
"""

#: A claim survives a crash of the server, so that what may have been in hands is always marked. The lock on the own
#: row makes `SWEEP` wait for a claim under way, and a claim after it take nothing. `after` skips what the index still
#: remembers of messages that are long gone. Of a single queue its active consumer alone takes, one message at a time.
#: The session itself does not wait for the disk: the transaction says that it does, where it claims anything.
CLAIM = Prepared(
    "claim",
    """
WITH picked AS MATERIALIZED (
    SELECT ready.seq, w.name
    FROM unnest(%(names)s::text[], %(free)s::int[], %(after)s::bigint[]) AS w(name, free, after)
    JOIN pyfi.broker_queue q ON q.name = w.name AND (NOT q.single OR q.active = %(me)s AND NOT EXISTS (
        SELECT FROM pyfi.broker_message h WHERE h.queue = q.id AND h.consumer IS NOT NULL
    ))
    CROSS JOIN LATERAL (
        SELECT m.seq FROM pyfi.broker_message m WHERE m.queue = q.id AND m.consumer IS NULL AND m.seq > w.after
        ORDER BY m.seq LIMIT CASE WHEN q.single THEN 1 ELSE w.free END FOR UPDATE SKIP LOCKED
    ) AS ready
), mine AS MATERIALIZED (
    SELECT id, set_config('synchronous_commit', 'on', true) FROM pyfi.broker_consumer
    WHERE id = %(me)s AND EXISTS (SELECT FROM picked) FOR KEY SHARE
)
UPDATE pyfi.broker_message m SET consumer = mine.id FROM picked, mine WHERE m.seq = picked.seq
RETURNING m.seq, picked.name, m.body, m.content_type, m.headers, m.delivery_count
""",
)

#: NOT DISTINCT keeps the planner off the index of held messages, which remembers all that were ever held.
SETTLE = Prepared(
    "settle",
    """
DELETE FROM pyfi.broker_message WHERE seq = ANY(%(seqs)s::bigint[]) AND consumer IS NOT DISTINCT FROM %(me)s
""",
)

GIVE_BACK = """
WITH freed AS (
    UPDATE pyfi.broker_message SET consumer = NULL, delivery_count = delivery_count + 1
    WHERE seq = ANY(%(seqs)s::bigint[]) AND consumer IS NOT DISTINCT FROM %(me)s RETURNING queue
)
SELECT pg_notify('pyfi_q_' || md5(name), '') FROM pyfi.broker_queue WHERE id IN (SELECT queue FROM freed)
"""

#: Takes the rows of consumers whose session is gone (their lock can be had) or whose lease lapsed. `FREE` follows
#: in the same transaction with a snapshot of its own, so that it sees claims that this waited for.
SWEEP = """
BEGIN;
DELETE FROM pyfi.broker_consumer
WHERE id <> %(me)s AND (id = %(previous)s OR lease_until < clock_timestamp()
                        OR pg_try_advisory_xact_lock(%(space)s, id))
"""
FREE = """
WITH freed AS (
    UPDATE pyfi.broker_message m SET consumer = NULL, delivery_count = delivery_count + 1
    WHERE consumer IS NOT NULL AND NOT EXISTS (SELECT FROM pyfi.broker_consumer c WHERE c.id = m.consumer)
    RETURNING queue
)
SELECT pg_notify('pyfi_q_' || md5(name), '') FROM pyfi.broker_queue WHERE id IN (SELECT queue FROM freed)
"""
LEAVE = "BEGIN; DELETE FROM pyfi.broker_consumer WHERE id = %(me)s"

#: Become the active consumer of single queues that have none which is alive, leave those that are not consumed any
#: more; which ones are ours. An incarnation is never used again, so that who was seen to be gone stays gone.
ACTIVATE = """
WITH orphan AS MATERIALIZED (
    SELECT q.id, q.active FROM pyfi.broker_queue q
    WHERE q.single AND q.name = ANY(%(queues)s::text[])
        AND NOT EXISTS (SELECT FROM pyfi.broker_consumer c WHERE c.id = q.active)
)
UPDATE pyfi.broker_queue q SET active = %(me)s FROM orphan
WHERE q.id = orphan.id AND q.active IS NOT DISTINCT FROM orphan.active;
UPDATE pyfi.broker_queue SET active = NULL WHERE single AND active = %(me)s AND NOT name = ANY(%(queues)s::text[]);
SELECT name FROM pyfi.broker_queue WHERE single AND active = %(me)s
"""

QUEUE = "SELECT network, exchange, key FROM pyfi.broker_queue WHERE name = %(name)s"
SET_ASIDE = """
WITH moved AS (
    UPDATE pyfi.broker_message m
    SET queue = dead.id, consumer = NULL, delivery_count = 0, headers = m.headers || %(notes)s::jsonb
    FROM pyfi.broker_queue dead
    WHERE dead.name = %(dead)s AND m.seq = %(seq)s AND m.consumer = %(me)s
)
SELECT pg_notify('pyfi_q_' || md5(%(dead)s), '')
"""

DECLARE = """
INSERT INTO pyfi.broker_queue (name, network, exchange, key, generation, max_length, single)
VALUES (%(name)s, %(network)s, %(exchange)s, %(key)s, %(generation)s, %(max_length)s, %(single)s)
ON CONFLICT (name) DO NOTHING
"""
STANDS = "SELECT max_length, pg_notify('pyfi_q_' || md5(name), '') FROM pyfi.broker_queue WHERE name = %(name)s"

#: The lock waits for inserts under way and holds up others for a moment: none comes after the messages are deleted.
DELETE_QUEUE = """
BEGIN;
LOCK TABLE pyfi.broker_queue IN ACCESS EXCLUSIVE MODE;
DELETE FROM pyfi.broker_queue WHERE name = %(name)s RETURNING id
"""
DELETE_MESSAGES = "DELETE FROM pyfi.broker_message WHERE queue = %(id)s"

DEPTH = """
SELECT (SELECT count(*) FROM pyfi.broker_message m WHERE m.queue = q.id AND m.consumer IS NULL),
       (SELECT count(*) FROM pyfi.broker_message m WHERE m.queue = q.id AND m.consumer IS NOT NULL),
       (SELECT count(*) FROM pyfi.broker_consumer c CROSS JOIN unnest(c.queues) AS n(name) WHERE n.name = q.name)
FROM pyfi.broker_queue q WHERE q.name = %(name)s
"""
PEEK = """
SELECT m.body, m.delivery_count > 0, m.headers
FROM pyfi.broker_message m JOIN pyfi.broker_queue q ON q.id = m.queue
WHERE q.name = %(name)s AND m.consumer IS NULL ORDER BY m.seq LIMIT %(count)s
"""
LAST = """
SELECT coalesce((SELECT max(seq) FROM pyfi.broker_message m WHERE m.queue = q.id AND m.consumer IS NULL), 0), q.id
FROM pyfi.broker_queue q WHERE q.name = %(name)s
"""
TAKE = """
BEGIN;
SELECT seq, body FROM pyfi.broker_message WHERE queue = %(id)s AND consumer IS NULL AND seq <= %(last)s
ORDER BY seq LIMIT 100 FOR UPDATE SKIP LOCKED
"""
TAKEN = "DELETE FROM pyfi.broker_message WHERE seq = ANY(%(seqs)s::bigint[])"
