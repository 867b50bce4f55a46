"""Messages that cannot be run: each gets its verdict, nothing is stuck, and the agent goes on (RELIABILITY 1.7, 5)."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pika
import pytest

from pyfi_hpc.brokers.base import Publication, dead_queue
from pyfi_hpc.db import schema
from pyfi_hpc.db.embedded import ROLE, EmbeddedPostgres
from pyfi_hpc.db.topology import SocketInfo
from pyfi_hpc.errors import BadInput
from pyfi_hpc.wire import messages, values
from pyfi_hpc.wire.ids import call_digest, id_text, new_id
from pyfi_hpc.wire.messages import CONTENT_TYPE, Call, Message
from tests.faults.own import change
from tests.services.databases import new_database
from tests.site import Site
from tests.support import eventually


def a_message(site: Site, **changed: Any) -> Message:
    """A call of `p.work` as a client would send it, with fields changed."""
    way = site.client.session.way("p.work")
    args = values.encode_arguments((1, str(site.runs)), {})
    call = Call(new_id(), args, call_digest(way.socket.id, args))
    message = Message(1, new_id(), site.client.session.owner, way.socket.id, way.socket.generation, (call,))
    return msgspec.structs.replace(message, **changed)


def raw(message: Message, **changed: Any) -> bytes:
    """Its bytes, with fields of its first call changed to what no client would write."""
    call = msgspec.structs.replace(message.calls[0], **changed)
    return messages.encode(msgspec.structs.replace(message, calls=(call,)))


#: what is wrong -> (how it is made, its code, what the detail in quarantine says)
UNREADABLE: dict[str, tuple[Callable[[Site], bytes], str]] = {
    "empty": (lambda _: b"", "E_DECODE"),
    "truncated": (lambda site: messages.encode(a_message(site))[:-7], "E_DECODE"),
    "trailing bytes": (lambda site: messages.encode(a_message(site)) + b"\x01", "E_DECODE"),
    "4 GiB said": (lambda _: b"\x98\x01\xc6\xff\xff\xff\xff", "E_DECODE"),
    "nested deep": (lambda _: b"\x98\x01" + b"\x91" * 100_000, "E_"),
    "unknown field": (lambda _: msgspec.msgpack.encode([1, *"abcdefghij"]), "E_FIELD"),
    "pickle": (lambda _: b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94.", "E_"),
    "newer version": (lambda site: messages.encode(a_message(site, version=99)), "E_WIRE_VERSION"),
    "nil id": (lambda site: raw(a_message(site), id=bytes(16)), "E_ID"),
    "short id": (lambda site: raw(a_message(site), id=b"abc"), "E_ID"),
    "no calls": (lambda site: messages.encode(a_message(site, calls=())), "E_FIELD"),
    "attempt too high": (lambda site: raw(a_message(site), serial=2**40), "E_FIELD"),
    "owner of bytes that Postgres refuses": (lambda site: messages.encode(a_message(site, owner="a\0b")), "E_FIELD"),
    "socket of three bytes": (lambda site: messages.encode(a_message(site, socket=b"abc")), "E_FIELD"),
}


def send(site: Site, body: bytes, content_type: str = CONTENT_TYPE) -> None:
    """Put a message where calls of `p.work` go, behind the client's back."""
    socket: SocketInfo = site.client.session.way("p.work").socket
    site.client.session.broker.publish(
        Publication(socket.exchange, socket.key, body, new_id().hex(), content_type)
    ).result(30)


def quarantined(site: Site) -> list[tuple[str, str, bytes]]:
    """(code, detail, body) of what is set aside."""
    rows = site.rows("SELECT reason, detail, body FROM pyfi.quarantine ORDER BY at")
    return [(reason, detail, bytes(body)) for reason, detail, body in rows]


def works(site: Site) -> None:
    """The agent that was started first still does its work, and nothing is stuck."""
    site.submit("p.work", [(1, str(site.runs))])[0].result(timeout=30)
    site.quiet()
    assert [agent.process.poll() for agent in site.agents] == [None]


@pytest.fixture
def working(site: Site) -> Site:
    """A site with an agent at work."""
    site.processor("work", workers=1)
    site.agent()
    site.ready()
    return site


def test_what_cannot_be_read_is_kept_whole_with_its_reason(working: Site) -> None:
    site = working
    sent = {name: make(site) for name, (make, _) in UNREADABLE.items()}
    for body in sent.values():
        send(site, body)
    send(site, b"x", "application/python-pickle")

    eventually(lambda: len(quarantined(site)) > len(sent), timeout=30)

    details = {body: detail for _, detail, body in quarantined(site)}
    for name, (_, code) in UNREADABLE.items():
        assert details[sent[name]].startswith(code), (name, details[sent[name]])
    assert details[b"x"].startswith("E_CONTENT_TYPE")
    works(site)


def test_what_may_not_run_gets_its_verdict(working: Site) -> None:
    site = working
    foreign = a_message(site, owner="mallory")
    unknown = a_message(site, socket=new_id())
    first = a_message(site)
    args = values.encode_arguments((2, str(site.runs)), {})
    other = msgspec.structs.replace(first.calls[0], args=args, digest=call_digest(first.socket, args))
    again = msgspec.structs.replace(first, calls=(other,))

    send(site, messages.encode(first))
    eventually(lambda: outcome(site, first) == "SUCCEEDED", timeout=30)
    for message in (foreign, unknown, again):
        send(site, messages.encode(message))

    eventually(lambda: len(quarantined(site)) == 2, timeout=30)
    codes = {body: code for code, _, body in quarantined(site)}
    # somebody else's is kept and decides nothing
    assert codes[messages.encode(foreign)] == "E_OWNER"
    assert outcome(site, foreign) is None
    # of an id used for two calls the first stands
    (conflict,) = [body for body, code in codes.items() if code == "E_ID_CONFLICT"]
    assert messages.decode_message(conflict).calls == (other,)
    assert site.client.future(id_text(other.id)).result(timeout=30) == 2
    # of a socket that nobody knows there is a dead call
    eventually(lambda: outcome(site, unknown) == "DEAD", timeout=30)
    works(site)


def outcome(site: Site, message: Message) -> str | None:
    """The status of its first call's outcome."""
    return site.outcomes().get(id_text(message.calls[0].id))


#: What the embedded broker has tests of its own for, or cannot carry.
only_rabbitmq = pytest.mark.parametrize("broker_uri", ["rabbitmq"], indirect=True)


@only_rabbitmq
def test_a_compressed_bomb_is_not_unpacked(working: Site) -> None:
    bomb = gzip.compress(bytes(200 * 2**20))
    socket = working.client.session.way("p.work").socket
    properties = pika.BasicProperties(content_type=CONTENT_TYPE, content_encoding="gzip", delivery_mode=2)
    with pika.BlockingConnection(pika.URLParameters(working.broker_uri)) as connection:
        connection.channel().basic_publish(socket.exchange, socket.key, bomb, properties)

    ((_, detail, _),) = eventually(lambda: quarantined(working), timeout=30)

    assert detail.startswith("E_LIMIT")
    works(working)


@only_rabbitmq
def test_what_the_broker_gave_up_on_gets_another_chance(site: Site) -> None:
    site.processor("work", workers=1)
    (future,) = site.submit("p.work", [(4, str(site.runs))])
    socket = site.client.session.way("p.work").socket
    queue = f"{socket.exchange}.{socket.key}.g{socket.generation}"
    with pika.BlockingConnection(pika.URLParameters(site.broker_uri)) as connection:
        channel = connection.channel()
        while (got := channel.basic_get(queue))[0] is not None:
            channel.basic_nack(got[0].delivery_tag, requeue=True)

    # its count is over the limit: the broker has set it aside, and the agent finds that it never ran
    site.agent()

    assert future.result(timeout=60) == 8
    site.quiet()
    assert site.executions() == {future.id: 1}


@pytest.mark.parametrize("broker_uri", ["rabbitmq"], indirect=True)
def test_an_agent_of_a_fresh_network_makes_its_dead_letters_before_it_consumes_them(
    shared_postgres: EmbeddedPostgres, broker_uri: str, home: Path
) -> None:
    network = f"n{uuid.uuid4().hex[:10]}"
    with new_database(shared_postgres) as database:
        schema.init(database.admin_uri, grant_to=ROLE)
        site = Site(home, database.uri, broker_uri, {"PYFI_AGENT_NETWORK": network})
        change(site, "INSERT INTO pyfi.network (name) VALUES (%s)", network)
        agent = site.agent()
        try:
            eventually(lambda: _consumers(site, dead_queue(network)) == 1, timeout=20)
        finally:
            site.close()
    assert "agent ready" in agent.log.read_text()
    assert "404" not in agent.log.read_text()


def _consumers(site: Site, queue: str) -> int | None:
    try:
        return site.client.session.broker.depth(queue).consumers
    except BadInput:
        return None
