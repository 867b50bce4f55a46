"""Sending: callers append and go on, whoever comes by sends what has gathered, a window of messages is unconfirmed.

No timer waits for a message to fill: the first calls of a socket go at once, sent by the caller itself, and while those
are unconfirmed more gather, to be sent by the thread that brings a confirm. One thread at a time sends, so messages
leave in order. Whoever hands over more than there is room for waits. A thread of our own sees to what time brings.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter

from pyfi_hpc.brokers.base import Broker, Confirm, Publication
from pyfi_hpc.client import notices
from pyfi_hpc.client.directory import Way
from pyfi_hpc.client.newids import NewIds
from pyfi_hpc.client.notices import Notices, Stuck
from pyfi_hpc.client.parcels import EAGER_PARCELS, MOST_CALLS, Item, Lane, Parcel
from pyfi_hpc.client.tickets import AcceptedLog
from pyfi_hpc.errors import BrokerUnavailable, PyfiError, Unavailable
from pyfi_hpc.failpoints import reach
from pyfi_hpc.logs import logger
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.messages import WIRE_VERSION, Answer, Message

#: Messages that may be unconfirmed at once; where they are so many, the next go when half of them are confirmed, for
#: many that go together cost each of them less, all the way.
WINDOW = 128
#: Calls, and bytes of them, that may wait to be sent before callers have to wait themselves; they go on when a quarter
#: of that is gone, not to be woken for each.
ROOM_CALLS, ROOM_BYTES = 4096, 16 * 2**20

#: What leaves together ends with the message that makes it so many bytes.
TOGETHER_BYTES = 128 * 1024

_NEVER = float("inf")

log = logger()


class Sender:
    """Takes calls from any thread; ends with `close`."""

    def __init__(
        self,
        broker: Broker,
        owner: str,
        reply: str,
        mend: Callable[[Way], None],
        log: AcceptedLog,
        tell: Callable[[str], None] = lambda _: None,
        most_calls: int = MOST_CALLS,
    ) -> None:
        """`mend` is called with a way when the broker knows no queue of it; `reply` is our reply address;
        `tell` is given a line for people where calls wait for long; at most `most_calls` share a message."""
        self._broker, self._owner, self.reply, self._mend, self._log = broker, owner, reply, mend, log
        self._most_calls = most_calls
        self._lock = threading.Lock()
        self._news, self._room = threading.Condition(self._lock), threading.Condition(self._lock)
        self._lanes: dict[Way, Lane] = {}
        self._busy: deque[Lane] = deque()
        self._window: set[Parcel] = set()
        self._again: list[Parcel] = []
        self._waiting = self._bytes = 0
        self._ids = NewIds()
        #: when the first of all calls here runs out of time
        self._late_at = _NEVER
        self._notices, self._tell = Notices(), tell
        self._closing = self._sending = False
        #: the window has been full, and is not half empty yet; somebody waits for room
        self._full = self._crowded = False
        self._thread = threading.Thread(target=self._run, name="pyfi-sender", daemon=True)
        self._thread.start()

    # from any thread

    def hungry(self, way: Way, gathered: int) -> bool:
        """Whether a caller that has gathered so many calls should hand them over now."""
        lane = self._lanes.get(way)
        return lane is None or gathered >= lane.limit or (lane.unconfirmed == 0 and not lane.waiting)

    def eager(self, way: Way) -> bool:
        """Whether what is handed over goes at once, even if it makes no full message."""
        lane = self._lanes.get(way)
        return lane is None or lane.unconfirmed < EAGER_PARCELS

    @property
    def roomy(self) -> bool:
        """Whether `put` would not wait; asked well before it has to, since others put meanwhile."""
        return self._waiting < ROOM_CALLS // 2 and self._bytes < ROOM_BYTES // 2

    def put(self, way: Way, items: Sequence[Item], *, known: bool = False, until: float = _NEVER) -> None:
        """Have the calls sent, soon; waits while there is no room, but not after `until`. Each is accepted or refused
        through its ticket, which has counted it already where it is `known`."""
        if not known:
            for ticket, group in groupby(items, _ticket):
                ticket.add(len(list(group)))
        size = sum([len(item.call.args) for item in items])
        with self._lock:
            roomy = self._wait_for_room(min(items[0].deadline, until))
            if roomy:
                self._append(way, items, size)
        if roomy:
            self._send_ready()
        else:
            self._give_back(items, self._refusal(None))

    def _wait_for_room(self, deadline: float) -> bool:
        while not self._closing and (self._waiting >= ROOM_CALLS or self._bytes >= ROOM_BYTES):
            self._crowded = True
            if not self._room.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                return False
        return not self._closing

    def _append(self, way: Way, items: Sequence[Item], size: int) -> None:
        lane = self._lanes.get(way)
        if lane is None:
            lane = self._lanes[way] = Lane(way, self._most_calls)
        if not lane.waiting:
            self._busy.append(lane)
        lane.waiting.extend(items)
        self._waiting += len(items)
        self._bytes += size
        if self._notices.expect(time.monotonic()):
            self._news.notify()
        if items[0].deadline < self._late_at:
            self._late_at = items[0].deadline
            self._news.notify()

    def close(self) -> None:
        """Refuse what is not sent, and end the thread; what was sent is the broker's business."""
        with self._lock:
            self._closing = True
            left = [item for lane in self._busy for item in lane.waiting]
            left += [item for parcel in (*self._again, *self._window) for item in parcel.items]
            for parcel in (*self._again, *self._window):
                parcel.items = []
            self._busy.clear()
            self._again.clear()
            self._news.notify_all()
            self._room.notify_all()
        self._give_back(left, BrokerUnavailable("E_BROKER", "the client was closed before the call was accepted"))
        self._thread.join()

    # the thread

    def _run(self) -> None:
        while not self._closing:
            self._send_ready()
            with self._lock:
                late = self._late()
                stuck = self._stuck()
                if not late and stuck is None and not self._closing:
                    self._news.wait(self._pause())
            if stuck is not None:
                notices.told(self._broker, stuck, time.monotonic(), self._tell)
            self._give_up(late)

    # any thread

    def _send_ready(self) -> None:
        """Send what may go now; where another thread is at it, that one does."""
        mine, parcels = False, list[Parcel]()
        try:
            while True:
                with self._lock:
                    if self._sending and not mine:
                        return
                    parcels = self._ready()
                    mine = self._sending = bool(parcels)
                if not parcels:
                    return
                self._send(parcels)
        except BaseException:  # a caller may be interrupted anywhere
            self._resume(mine, parcels)
            raise

    def _resume(self, mine: bool, cut_off: Sequence[Parcel]) -> None:
        """The thread that sent was interrupted: what it may not have sent goes again, which does no harm."""
        with self._lock:
            self._sending = self._sending and not mine
            # those of another thread that sends are on their way
            unsent = [each for each in self._window if each in cut_off or (each.confirm is None and not self._sending)]
            for parcel in unsent:
                self._leave(parcel)
                parcel.confirm, parcel.due = None, time.monotonic()
                self._again.append(parcel)
            self._news.notify()

    def _ready(self) -> list[Parcel]:
        """The parcels to send now, put into the window; they leave together, so that they are not too many bytes."""
        parcels: list[Parcel] = []
        room = TOGETHER_BYTES
        while room > 0 and (parcel := self._next()) is not None:
            parcels.append(parcel)
            room -= sum([len(item.call.args) for item in parcel.items])
        return parcels

    def _next(self) -> Parcel | None:
        """The parcel to send now, put into the window; None where there is none, or no room in the window."""
        self._full = len(self._window) > (WINDOW // 2 if self._full else WINDOW - 1)
        if self._closing or self._full:
            return None
        now = time.monotonic()
        for parcel in self._again:
            if parcel.due <= now:
                self._again.remove(parcel)
                return self._enter(parcel)
        for _ in range(len(self._busy)):
            lane = self._busy.popleft()
            if lane.ready and not (lane.way.socket.ordered and any(parcel.lane is lane for parcel in self._again)):
                return self._enter(self._parcel(lane))
            self._busy.append(lane)
        return None

    def _parcel(self, lane: Lane) -> Parcel:
        items = lane.take()
        if lane.waiting:
            self._busy.append(lane)
        self._leave_room(items)
        return Parcel(lane, items, self._ids.next())

    def _leave_room(self, items: Sequence[Item]) -> None:
        self._waiting -= len(items)
        self._bytes -= sum([len(item.call.args) for item in items])
        if self._crowded and self._waiting <= ROOM_CALLS * 3 // 4 and self._bytes <= ROOM_BYTES * 3 // 4:
            self._crowded = False
            self._room.notify_all()

    def _enter(self, parcel: Parcel) -> Parcel:
        self._window.add(parcel)
        parcel.lane.unconfirmed += 1
        return parcel

    def _leave(self, parcel: Parcel) -> None:
        self._window.discard(parcel)
        parcel.lane.unconfirmed -= 1

    def _pause(self) -> float | None:
        """Seconds until something is due."""
        first = min([self._late_at, self._notices.at, *(parcel.due for parcel in self._again)])
        # what is due and finds no room goes with the next confirm
        return None if first == _NEVER else max(0.01, first - time.monotonic())

    def _stuck(self) -> Stuck | None:
        """What people are to be told of now."""
        now = time.monotonic()
        if now < self._notices.at:
            return None
        waiting = [parcel for parcel in (*self._window, *self._again) if parcel.items]
        return self._notices.look(now, waiting, self._waiting)

    def _send(self, parcels: Sequence[Parcel]) -> None:
        confirms = self._broker.publish_all([self._publication(parcel) for parcel in parcels])
        with self._lock:
            for parcel, confirm in zip(parcels, confirms, strict=True):
                parcel.confirm = confirm
        for parcel, confirm in zip(parcels, confirms, strict=True):
            confirm.add_done_callback(partial(self._confirmed, parcel))

    def _publication(self, parcel: Parcel) -> Publication:
        socket = parcel.lane.way.socket
        message = Message(
            version=WIRE_VERSION,
            batch=parcel.batch,
            owner=self._owner,
            socket=socket.id,
            generation=socket.generation,
            calls=tuple([item.call for item in parcel.items]),
            reply=self.reply,
        )
        reach("client_before_publish")
        return Publication(socket.exchange, socket.key, messages.encode(message), parcel.batch.hex())

    # what the broker says, on a thread of its own

    def _confirmed(self, parcel: Parcel, confirm: Confirm) -> None:
        error = _error(confirm)
        if error is None:
            reach("client_after_publish")
        with self._lock:
            if confirm is not parcel.confirm:
                return  # it was sent again since
            self._leave(parcel)
            items = parcel.items
            again = error is not None and bool(items) and self._may_go_again(parcel, error)
            if again:
                self._again.append(parcel)
                self._news.notify()
        self._send_ready()
        if error is None:
            self._accepted(items)
        elif not again:
            self._give_back(items, error)

    def _may_go_again(self, parcel: Parcel, error: PyfiError) -> bool:
        if self._closing:
            return False
        if isinstance(error, BrokerUnavailable):
            parcel.put_off(error)
            return True
        if error.code == "E_UNKNOWN_SOCKET" and not parcel.mended:
            parcel.mended = True
            parcel.put_off(error)
            parcel.due = _NEVER
            # a look into the database has no place on the broker's thread
            threading.Thread(target=self._mend_for, args=(parcel,), name="pyfi-mend", daemon=True).start()
            return True
        return False

    def _mend_for(self, parcel: Parcel) -> None:
        name = parcel.lane.way.socket.name
        try:
            self._mend(parcel.lane.way)
        except PyfiError as error:
            log.warning("the socket's queue cannot be declared", socket=name, reason=str(error))
            parcel.mended = not isinstance(error, Unavailable)
        finally:
            with self._lock:
                parcel.due = time.monotonic()
                self._news.notify()

    def _accepted(self, items: Sequence[Item]) -> None:
        try:
            if items:
                self._log.write(item.future for item in items)
        finally:
            # they are accepted, whatever becomes of the log
            for ticket, group in groupby(items, key=_ticket):
                ticket.settle(sum(1 for _ in group))

    def _give_back(self, items: Sequence[Item], error: PyfiError) -> None:
        """No word of the broker's will come: refused, but for those that are answered, which proves them accepted."""
        self._accepted([item for item in items if isinstance(item.future.answer, Answer)])
        refuse([item for item in items if not isinstance(item.future.answer, Answer)], error)

    # calls whose time is over

    def _late(self) -> list[tuple[Parcel | None, list[Item]]]:
        """Take out calls that nobody waits for any longer; those that travel together come together."""
        now = time.monotonic()
        late: list[tuple[Parcel | None, list[Item]]] = []
        if now < self._late_at:
            return late
        for lane in self._busy:
            if items := lane.expired(now):
                self._leave_room(items)
                late.append((None, items))
        self._busy = deque(lane for lane in self._busy if lane.waiting)
        for parcel in (*self._window, *self._again):
            if items := parcel.expired(now):
                late.append((parcel, items))
        self._again = [parcel for parcel in self._again if parcel.items]
        deadlines = [parcel.deadline for parcel in (*self._window, *self._again)]
        self._late_at = min([*deadlines, *(lane.deadline for lane in self._busy)], default=_NEVER)
        return late

    def _give_up(self, late: Iterable[tuple[Parcel | None, list[Item]]]) -> None:
        for parcel, items in late:
            self._give_back(items, self._refusal(parcel))

    def _refusal(self, parcel: Parcel | None) -> PyfiError:
        """Why calls were not accepted in time: what the broker said of them, or what state it is in."""
        if parcel is not None and parcel.error is not None and parcel.confirm is None:
            said = parcel.error
            return type(said)(said.code, said.what, at=said.at, cure=REPEAT, sent=False)
        sent = parcel is not None and not _taken_back(parcel)
        known = "it is not known whether it was accepted" if sent else "nothing was accepted"
        code, what = self._state()
        return BrokerUnavailable(code, f"{what}; {known}", cure=REPEAT, sent=sent)

    def _state(self) -> tuple[str, str]:
        if self._broker.publishing():
            return "E_BACKPRESSURE", "the broker does not keep up"
        if not notices.answers(self._broker):
            return "E_BROKER", "the broker cannot be reached"
        return "E_BROKER_BLOCKED", "the broker takes no messages for now"


_ticket = attrgetter("ticket")
#: The cure of a call that was not accepted, or not known to be.
REPEAT = "repeat it with the same id: however often, it has one outcome"


def _taken_back(parcel: Parcel) -> bool:
    """Whether the broker's connection gave the message back unsent; only if nobody else waits for it."""
    return not parcel.items and parcel.confirm is not None and parcel.confirm.cancel()


def _error(confirm: Confirm) -> PyfiError | None:
    if confirm.cancelled():
        return BrokerUnavailable("E_BROKER", "the message was taken back")
    error = confirm.exception()
    if error is None or isinstance(error, PyfiError):
        return error
    return BrokerUnavailable("E_BROKER", f"the message could not be sent: {error}")


def refuse(items: Sequence[Item], error: PyfiError) -> None:
    """These are not accepted, for that reason."""
    for item in items:
        item.future.settle(error)
    for ticket, group in groupby(items, key=_ticket):
        refused = [(item.future, error) for item in group]
        ticket.settle(len(refused), refused)
