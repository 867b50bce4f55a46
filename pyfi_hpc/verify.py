"""The invariant checker: is the record what RELIABILITY 1 promises? Run it when all is quiet; it changes nothing.

Checked: each accepted id has exactly one outcome (I1); each child exists once and carries the value that its parent
committed (I2); queues, hold rows and leases are empty, dead ones apart (I4, I5); no process of an ended worker is
left (I6); each blob that is referred to is there and is what its name says (I8). Calls that wait for their time, such
as delayed ones, are counted, and are no breach; nor are hold rows that wait for theirs while their call, having been
sent once more without a delay, is decided: they go then. Who wants all that over too asks whether it is `quiet`.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pyfi_hpc.brokers.base import Broker, dead_queue
from pyfi_hpc.db import topology
from pyfi_hpc.db.record import Cursor
from pyfi_hpc.errors import BadInput
from pyfi_hpc.processes import alive, arguments
from pyfi_hpc.wire import blobs, messages, values
from pyfi_hpc.wire.ext import BLOB_BYTES
from pyfi_hpc.wire.ids import call_digest, child_id, id_text, parse_id

_SHOWN = 5
_FINAL = "('SUCCEEDED', 'FAILED', 'CANCELLED', 'DEAD')"
_SCANS = ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan")


@dataclass
class Report:
    """What was found. `problems` are lines for a person; empty when every invariant holds.

    `waiting` calls have no outcome because the time at which they are to start is ahead; the last one's is `until`.
    `early` ones are decided before that time: only their hold rows wait for it.
    """

    sent: int = 0
    done: int = 0
    lost: int = 0
    twice: int = 0
    waiting: int = 0
    until: datetime.datetime | None = None
    early: int = 0
    problems: list[str] = field(default_factory=list)
    #: those of the problems that calls are which have not ended yet, and those that such calls may explain
    under_way: list[str] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)

    @property
    def unsettled(self) -> bool:
        """Whether calls are under way, and nothing is wrong but what these may explain."""
        known = len(self.under_way) + len(self.explained)
        return bool(self.under_way) and len(self.problems) == known and not self.twice

    @property
    def ok(self) -> bool:
        return not (self.problems or self.lost or self.twice)

    @property
    def quiet(self) -> bool:
        """Whether it is ok, and no call or hold row waits for its time either."""
        return self.ok and not (self.waiting or self.early)

    @property
    def line(self) -> str:
        """The numbers in one line."""
        waiting = f"  waiting {self.waiting:,}" if self.waiting else ""
        lost = f"{'open' if self.unsettled and self.lost else 'lost'} {self.lost:,}"
        return f"sent {self.sent:,}  done {self.done:,}{waiting}  {lost}  recorded twice {self.twice:,}"

    @property
    def lines(self) -> list[str]:
        """Everything, for a person."""
        waiting = f"calls that wait for their time: {self.waiting:,}, the last until {self.until}"
        early = f"hold rows of decided calls, which go at their time: {self.early:,}"
        told = [*([waiting] if self.waiting else ()), *([early] if self.early else ())]
        return [*self.problems, *told, self.line]

    def found(self, invariant: str, what: str, ids: Iterable[bytes] = (), *, among: Sequence[list[str]] = ()) -> None:
        """Note a breach of `invariant`, with the first few ids, in full: some are on no record to find them in.

        `among`: lists of ours that its line belongs to as well.
        """
        known = sorted(ids)
        listed = ", ".join(map(id_text, known[:_SHOWN])) + (" …" if len(known) > _SHOWN else "")
        line = f"{invariant}: {what}{': ' if known else ''}{listed}"
        for lines in (self.problems, *among):
            lines.append(line)


def check(
    connection: Any,
    accepted: Iterable[bytes] | None = None,
    *,
    broker: Broker | None = None,
    blob_dir: Path | None = None,
    host: str | None = None,
    known: dict[bytes, bytes] | None = None,
    owner: str | None = None,
) -> Report:
    """Check all that can be checked with what is given, in one transaction.

    `accepted` None: every id in the record counts as accepted. `broker`: its queues must be empty. `blob_dir`: blobs
    are read. `host`: this node's name, to look for its processes. `known`: id -> the encoded value that it must have.
    `owner`: whose ids these are; None: anybody's.
    """
    report = Report()
    with connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        waiting, early = _ahead(cursor, report)
        ours = {identity for whose, identity in waiting if owner in (None, whose)}
        _outcomes(cursor, report, None if accepted is None else set(accepted), owner, ours)
        _expected(cursor, report, known or {})
        _children(cursor, report, {identity for _, identity in waiting})
        _holds(cursor, report, waiting | early)
        _workers(cursor, report, host)
        if blob_dir is not None:
            _blobs(cursor, report, blob_dir)
        queues = _queue_names(cursor)
    if broker is not None:
        _queues(broker, report, *queues)
    return report


def read_accepted(path: Path) -> set[bytes]:
    """The ids in a file that a client wrote for `PYFI_ACCEPTED_LOG`: one on each line; a torn last line is left out.

    Raises:
        BadInput: E_ID.
    """
    whole, _, _ = path.read_text().rpartition("\n")
    return {parse_id(line.strip()) for line in whole.splitlines() if line.strip()}


def _ahead(cursor: Cursor, report: Report) -> tuple[set[tuple[str, bytes]], set[tuple[str, bytes]]]:
    """Owner and id of each call that is to start later and is not decided; and of each that is. A call whose time has
    come is neither."""
    cursor.execute(
        "SELECT owner, uuid_send(id), due, EXISTS"
        f" (SELECT FROM pyfi.outcome o WHERE (o.owner, o.id) = (h.owner, h.id) AND o.status IN {_FINAL})"
        " FROM pyfi.hold h WHERE state = 'DUE' AND due > now()"
    )
    rows = [((owner, bytes(identity)), due, decided) for owner, identity, due, decided in cursor.fetchall()]
    waiting = {key: due for key, due, decided in rows if not decided}
    early = {key for key, _, decided in rows if decided}
    report.waiting, report.until, report.early = len(waiting), max(waiting.values(), default=None), len(early)
    return set(waiting), early


def _outcomes(
    cursor: Cursor, report: Report, accepted: set[bytes] | None, owner: str | None, waiting: set[bytes]
) -> None:
    """I1, and the first half of I2."""
    # every row is visited, not only those that the unique index knows of: a broken index hides what it should forbid
    cursor.execute("".join(f"SET LOCAL {scan} = off;" for scan in _SCANS))
    # owners number their calls apart: the same id of two owners is two calls
    cursor.execute(
        f"SELECT uuid_send(id), max(times) FROM (SELECT id, count(*) AS times FROM pyfi.outcome"
        f" WHERE status IN {_FINAL} AND owner = coalesce(%s, owner) GROUP BY owner, id) AS counted GROUP BY id",
        (owner,),
    )
    recorded = {bytes(identity): times for identity, times in cursor.fetchall()}
    cursor.execute("".join(f"SET LOCAL {scan} = on;" for scan in _SCANS))
    wanted = recorded.keys() | waiting if accepted is None else accepted
    later = {identity for identity in wanted if identity in waiting and identity not in recorded}
    missing = {identity for identity in wanted if identity not in recorded} - later
    twice = {identity for identity in wanted if recorded.get(identity, 0) > 1}
    report.sent, report.lost, report.twice = len(wanted), len(missing), len(twice)
    report.done = report.sent - report.lost - len(later)
    if missing:
        report.found("I1", f"{len(missing)} accepted ids have no outcome", missing, among=[report.explained])
    if twice:
        report.found("I2", f"{len(twice)} ids have more than one outcome", twice)


def _expected(cursor: Cursor, report: Report, known: dict[bytes, bytes]) -> None:
    if not known:
        return
    cursor.execute(
        "SELECT uuid_send(id), value FROM pyfi.outcome WHERE id = ANY (%s::uuid[])", ([key.hex() for key in known],)
    )
    wrong = {bytes(row[0]) for row in cursor.fetchall() if row[1] is None or bytes(row[1]) != known[bytes(row[0])]}
    if wrong:
        report.found("I1", f"{len(wrong)} outcomes have another value than was expected", wrong)


def _children(cursor: Cursor, report: Report, waiting: set[bytes]) -> None:
    """The second half of I2: what each committed value was to start is decided, with that very value, or waits."""
    wanted = dict(_expected_children(cursor))
    if not wanted:
        return
    cursor.execute(
        "SELECT uuid_send(id), digest FROM pyfi.outcome WHERE id = ANY (%s::uuid[])", ([each.hex() for each in wanted],)
    )
    found = {bytes(row[0]): bytes(row[1] or b"") for row in cursor.fetchall()}
    missing = wanted.keys() - found.keys() - waiting
    wrong = {identity for identity, digest in found.items() if digest and digest != wanted[identity]}
    if missing:
        what = f"{len(missing)} children of committed outcomes have no outcome"
        report.found("I2", what, missing, among=[report.explained])
    if wrong:
        report.found("I2", f"{len(wrong)} children carry another value than their parent committed", wrong)


def _expected_children(cursor: Cursor) -> Iterator[tuple[bytes, bytes]]:
    cursor.execute(
        "SELECT uuid_send(id), value, routes FROM pyfi.outcome"
        " WHERE status = 'SUCCEEDED' AND routes IS NOT NULL AND value IS NOT NULL"
    )
    for identity, value, routes in cursor.fetchall():
        arguments_sent = values.arguments_of(bytes(value))
        for route in messages.decode_routes(bytes(routes)):
            yield child_id(bytes(identity), route.edge), call_digest(route.socket, arguments_sent)


def _holds(cursor: Cursor, report: Report, ahead: set[tuple[str, bytes]]) -> None:
    """I4 and I5 in the database."""
    cursor.execute("SELECT owner, uuid_send(id), state FROM pyfi.hold WHERE state <> 'DEAD'")
    left: dict[str, set[bytes]] = {}
    for owner, identity, state in cursor.fetchall():
        if (owner, bytes(identity)) not in ahead:
            left.setdefault(state, set()).add(bytes(identity))
    for state, ids in sorted(left.items()):
        what = f"{len(ids)} hold rows are {state}"
        report.found("I5" if state == "LEASED" else "I4", what, ids, among=[report.under_way])
    cursor.execute(
        "SELECT uuid_send(h.id) FROM pyfi.hold h LEFT JOIN pyfi.outcome o USING (owner, id)"
        " WHERE h.state = 'DEAD' AND o.status IS DISTINCT FROM 'DEAD'"
    )
    if unlike := {bytes(row[0]) for row in cursor.fetchall()}:
        report.found("I4", f"{len(unlike)} invocations are kept as dead that are not dead on record", unlike)


def _workers(cursor: Cursor, report: Report, host: str | None) -> None:
    """I6: the process of a worker that has ended is gone."""
    if host is None:
        return
    cursor.execute(
        "SELECT w.pid, a.pid FROM pyfi.worker w JOIN pyfi.agent a ON a.id = w.agent_id"
        " JOIN pyfi.node n ON n.id = w.node_id"
        " WHERE n.host = %s AND w.pid IS NOT NULL AND w.status IN ('EXITED', 'LOST')",
        (host,),
    )
    stray = [pid for pid, agent in cursor.fetchall() if _is_worker_of(pid, agent)]
    if stray:
        report.found("I6", f"processes of ended workers still run: {', '.join(map(str, sorted(stray)))}")


def _is_worker_of(pid: int, agent: int) -> bool:
    """Whether `pid` is a worker that this agent started; a number may be somebody else's by now."""
    words = arguments(pid)
    return alive(pid) and "pyfi_hpc.worker" in words and ("--parent", str(agent)) in pairwise(words)


def _blobs(cursor: Cursor, report: Report, folder: Path) -> None:
    """I8: values that are claim checks."""
    cursor.execute("SELECT DISTINCT value FROM pyfi.outcome WHERE length(value) = %s", (BLOB_BYTES,))
    references = [values.blob_in(bytes(row[0])) for row in cursor.fetchall()]
    bad = [each.digest for each in references if each is not None and not _is_whole(folder, each.digest)]
    if bad:
        report.found("I8", f"{len(bad)} blobs are missing or are not what their names say: {bad[0].hex()}")


def _is_whole(folder: Path, digest: bytes) -> bool:
    try:
        with blobs.path_of(folder, digest).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == digest
    except OSError:
        return False


def _queue_names(cursor: Cursor) -> tuple[list[str], list[str]]:
    cursor.execute(
        "SELECT n.name, q.name, t.task_key, t.generation FROM pyfi.task_queue t JOIN pyfi.queue q ON q.id = t.queue_id"
        " JOIN pyfi.network n ON n.id = q.network_id WHERE t.declared IS NOT NULL"
    )
    names = {topology.task_queue(*row).name for row in cursor.fetchall()}
    cursor.execute("SELECT name FROM pyfi.network")
    return sorted(names), [dead_queue(row[0]) for row in cursor.fetchall()]


def _queues(broker: Broker, report: Report, names: list[str], aside: list[str]) -> None:
    """I4 at the broker; `aside` are the queues of what was set aside."""
    for name in names + aside:
        depth = _depth(broker, name)
        if depth:
            what = f"{depth} {'message is' if depth == 1 else 'messages are'} in queue {name}"
            # what was set aside is under way no more
            report.found("I4", what, among=() if name in aside else [report.under_way])


def _depth(broker: Broker, name: str) -> int:
    try:
        depth = broker.depth(name)
    except BadInput:
        return 0  # never declared: nothing is in it
    return depth.ready + (depth.unacked or 0)
