"""After the commit: **forward → ack**, and a word to who waits.

Everything here is on the committer's thread; what brokers confirm comes back to it as a job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyfi_hpc.agent.commit.forwarding import Forwarder, Parcel
from pyfi_hpc.agent.commit.jobs import GiveBack, Job, Park, SetAside, Split, Then, Within
from pyfi_hpc.agent.commit.mending import Mender
from pyfi_hpc.agent.commit.verdicts import Verdict, single
from pyfi_hpc.agent.commit.ways import Ways
from pyfi_hpc.agent.lots import Lot
from pyfi_hpc.brokers.base import Broker, Confirm, Delivery, Publication, Reason
from pyfi_hpc.db import record
from pyfi_hpc.failpoints import reach
from pyfi_hpc.logs import logger
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.ids import new_id
from pyfi_hpc.wire.limits import REPLY_INLINE_BYTES
from pyfi_hpc.wire.messages import WIRE_VERSION, Answer, Message, Reply

log = logger("pyfi.agent")

_AGAIN_SECONDS = 1.0


@dataclass(slots=True)
class After:
    """What a transaction left to do once it is in."""

    verdicts: list[Verdict] = field(default_factory=list)
    calls: list[Callable[[], None]] = field(default_factory=list)
    parked: list[Parcel] = field(default_factory=list)
    #: forwarded, and their hold rows are gone
    dropped: list[Verdict] = field(default_factory=list)


class Settling:
    """Forwards, answers, settles."""

    def __init__(
        self,
        broker: Broker,
        mender: Mender,
        network: str,
        put: Callable[[Job], None],
        due_in: Callable[[float], None],
    ) -> None:
        """`put`, from any thread, has a job done by the committer; `due_in` is told when a hold row comes due, in
        seconds from now."""
        self._broker, self._network, self._put, self._due_in = broker, network, put, due_in
        self._publish = mender.publish
        self.ways = Ways()
        self._forwarder = Forwarder(mender.publish, self._confirmed)
        #: messages given back, of which the broker has said nothing yet
        self._returning = 0
        self._dropping: list[Verdict] = []
        self._parking: list[Parcel] = []

    @property
    def idle(self) -> bool:
        """Nothing is being forwarded or given back, and nothing waits for a transaction."""
        return not (self._forwarder.busy or self._returning or self.waits)

    @property
    def waits(self) -> bool:
        """There is something for the next transaction."""
        return bool(self._dropping or self._parking)

    @property
    def drops(self) -> bool:
        """Hold rows of what is forwarded are to go."""
        return bool(self._dropping)

    def for_transaction(self) -> tuple[list[Verdict], list[Parcel]]:
        """Verdicts whose hold rows are to go, and parcels that become hold rows; `after` hears of both again."""
        found = self._dropping, self._parking
        self._dropping, self._parking = [], []
        return found

    @property
    def again_seconds(self) -> float | None:
        """When `try_again` would do something."""
        return self._forwarder.again_seconds

    def try_again(self) -> None:
        """Publish again what was not confirmed."""
        self._forwarder.try_again()

    def after(self, after: After) -> None:
        """Do what the transaction left to do."""
        if after.verdicts:
            reach("agent_after_commit")
            self._tell(after.verdicts)
            flowing = [verdict for verdict in after.verdicts if verdict.routes]
            for verdict in flowing:
                self.ways.queued(verdict.routes)
            self._forwarder.send(flowing)
            self._settle([verdict for verdict in after.verdicts if not verdict.routes])
        self._settle(after.dropped)
        for parcel in after.parked:
            self._forwarded(self._forwarder.release(parcel))
        for call in after.calls:
            call()

    def _settle(self, settled: Sequence[Verdict]) -> None:
        if settled:
            reach("agent_after_forward")
        for verdict in settled:
            if verdict.conflict:
                self._conflict(verdict)
            elif verdict.in_place and verdict.retry_seconds is not None:
                verdict.lot.again(verdict.index, verdict.in_place, verdict.retry_seconds)
            else:
                verdict.settle()
            if verdict.overtaken and verdict.lot.overtaken is not None:
                verdict.lot.overtaken()

    def _conflict(self, verdict: Verdict) -> None:
        """The id was used for another call: this one is set aside, with that reason, and only then settled.

        A hold row of its own goes in between; one of the call that has the id, say a lease, stays.
        """
        lot, index = verdict.lot, verdict.index
        key, digest = lot.key(index), lot.call(index).digest
        message = single(lot, index, lot.call(index).serial)

        def told(confirm: Confirm) -> None:
            if _is_confirmed(confirm):
                self._put(Within(lambda cursor: record.drop_hold_of(cursor, key, digest), lambda _: verdict.settle()))
            else:
                self._put_later(Then(lambda: self._conflict(verdict)))

        self._broker.set_aside(
            self._network,
            _publication(message, lot),
            Reason.ID_CONFLICT,
            "the id was used for another call",
        ).add_done_callback(told)

    def _confirmed(self, parcel: Parcel, error: BaseException | None) -> None:
        self._put(Then(lambda: self._resolve(parcel, error)))

    def _resolve(self, parcel: Parcel, error: BaseException | None) -> None:
        free, parked = self._forwarder.resolve(parcel, error)
        if parked is not None:
            log.warning("a plug's target takes nothing: its results wait in hold rows", exchange=parked.route.exchange)
            self._parking.append(parked)
        self._forwarded(free)

    def _forwarded(self, free: Sequence[Verdict]) -> None:
        # a row that is gone before the ack does no harm; an ack before that could leave the row for ever
        self._dropping += [verdict for verdict in free if verdict.drop_hold]
        self._settle([verdict for verdict in free if not verdict.drop_hold])

    def _tell(self, decided: Sequence[Verdict]) -> None:
        waits = [verdict.retry_seconds for verdict in decided if verdict.retry_seconds is not None]
        if waits:
            self._due_in(min(waits))
        addressed: dict[str, list[Answer]] = {}
        for verdict in decided:
            if verdict.answer is not None and verdict.lot.message.reply:
                addressed.setdefault(verdict.lot.message.reply, []).append(_small(verdict.answer))
        for address, answers in addressed.items():
            self._broker.reply(address, messages.encode(Reply(WIRE_VERSION, tuple(answers))))

    def set_aside(self, job: SetAside) -> None:
        """To the dead letters, then acked."""
        delivery = job.delivery
        log.warning("message set aside", reason=job.reason, detail=job.detail, queue=delivery.queue)
        publication = Publication(
            delivery.queue, "", delivery.body, new_id().hex(), delivery.content_type or "", _text_headers(delivery)
        )
        confirm = self._broker.set_aside(self._network, publication, job.reason, job.detail)
        confirm.add_done_callback(lambda done: delivery.ack() if _is_confirmed(done) else self._put_later(job))

    def _put_later(self, job: Job) -> None:
        """Have it done again in a while; its delivery stays unacked meanwhile."""
        timer = threading.Timer(_AGAIN_SECONDS, self._put, [job])
        timer.daemon = True
        timer.start()

    def give_back(self, job: GiveBack) -> None:
        """Members that did not run, as a message of their own, then settled."""
        lot, calls = job.lot, tuple(job.lot.call(index) for index in job.indexes)
        message = Message(
            WIRE_VERSION,
            new_id(),
            lot.message.owner,
            lot.message.socket,
            lot.message.generation,
            calls,
            lot.message.reply,
            lot.message.workflow,
        )
        self._republish(lot, message, job.indexes)

    def split(self, job: Split) -> None:
        """Each member as a message of its own, then settled."""
        for index in job.indexes:
            self._republish(job.lot, single(job.lot, index, job.lot.call(index).serial + 1), (index,))

    def _returned(self) -> None:
        self._returning -= 1

    def _republish(self, lot: Lot, message: Message, indexes: tuple[int, ...]) -> None:
        def told(confirm: Confirm) -> None:
            self._put(Then(lambda: settle(lot, indexes)) if _is_confirmed(confirm) else Park(lot, message, indexes))
            self._put(Then(self._returned))

        # an agent that ended before the broker's word would leave both: this message and its delivery
        self._returning += 1
        self._publish(_publication(message, lot)).add_done_callback(told)


def settle(lot: Lot, indexes: Sequence[int]) -> None:
    """These members need nothing more."""
    for index in indexes:
        lot.settle(index)


def _is_confirmed(confirm: Confirm) -> bool:
    return not confirm.cancelled() and confirm.exception() is None


def _publication(message: Message, lot: Lot) -> Publication:
    return Publication(lot.socket.exchange, lot.socket.key, messages.encode(message), message.batch.hex())


def _small(answer: Answer) -> Answer:
    if answer.value is not None and len(answer.value) > REPLY_INLINE_BYTES:
        return Answer(answer.id, answer.kind)
    return answer


def _text_headers(delivery: Delivery) -> dict[str, str]:
    return {str(name): str(value)[:400] for name, value in delivery.headers.items()}
