"""Messages come twice and out of order: each call has one outcome, each child is started once (fault matrix 27)."""

from __future__ import annotations

import random
from contextlib import closing

import psycopg2

from pyfi_hpc.brokers.base import Publication
from pyfi_hpc.brokers.connect import connect
from pyfi_hpc.db import topology
from pyfi_hpc.db.topology import SocketInfo
from pyfi_hpc.wire import messages, values
from pyfi_hpc.wire.ids import call_digest, id_text, new_id
from pyfi_hpc.wire.messages import WIRE_VERSION, Call, Message
from tests.site import Site


def publications(site: Site, socket: SocketInfo, count: int, calls: int) -> list[Publication]:
    """So many messages of so many calls each, as a client would send them."""
    made = []
    for number in range(count):
        args = [values.encode_arguments((number * calls + index, str(site.runs)), {}) for index in range(calls)]
        members = tuple(Call(new_id(), each, call_digest(socket.id, each)) for each in args)
        site.accepted += [id_text(call.id) for call in members]
        message = Message(WIRE_VERSION, new_id(), socket.owner, socket.id, socket.generation, members)
        made.append(Publication(socket.exchange, socket.key, messages.encode(message), message.batch.hex()))
    return made


def test_messages_that_come_three_times_in_any_order_count_once(site: Site) -> None:
    site.processor("work", workers=2)
    site.client.network.add_queue(name=f"{site.queue}.next")
    site.client.network.add_processor(name="q", gitrepo=site.repository, module="tasks", workers=1)
    site.client.network.add_socket(name="q.follow", queue=f"{site.queue}.next", processor="q", task="follow")
    site.client.network.add_plug(name="plug", queue=f"{site.queue}.next", processor="p")
    site.agent()
    site.ready(2)
    with closing(psycopg2.connect(site.database_uri)) as connection, connection.cursor() as cursor:
        socket = topology.socket(cursor, "default", "p.work")
    assert socket is not None
    thrice = publications(site, socket, count=20, calls=5) * 3
    random.Random(27).shuffle(thrice)

    broker = connect(site.broker_uri or None, database_uri=site.database_uri)
    for confirm in [broker.publish(publication) for publication in thrice]:
        confirm.result(timeout=20)
    broker.close()

    site.quiet()
    # the site's own call names its outcome; its child's outcome says that it was started with the committed value
    assert site.rows("SELECT status::text, count(*) FROM pyfi.outcome GROUP BY status") == [("SUCCEEDED", 200)]
    assert set(site.accepted) <= site.outcomes().keys()
    assert len(site.executions()) == 100
