"""The tables of the embedded broker, schema `pyfi`; only `brokers.postgres` reads and writes them."""

from __future__ import annotations

import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Identity, Index, Integer, Text, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from pyfi_hpc.db.tables import Base


class BrokerQueue(Base):
    """A physical queue: messages to `exchange` with `key` go to the newest generation that is bound there."""

    __tablename__ = "broker_queue"
    id: Mapped[int] = mapped_column(Integer, Identity(always=True), primary_key=True)
    name: Mapped[str]
    network: Mapped[str]
    exchange: Mapped[str]
    key: Mapped[str]
    generation: Mapped[int]
    max_length: Mapped[int | None]
    #: one message is in hands at a time, in those of consumer `active`
    single: Mapped[bool] = mapped_column(server_default=text("false"))
    active: Mapped[int | None]
    __table_args__ = (UniqueConstraint("name"), Index(None, "exchange", "key"))


class BrokerConsumer(Base):
    """One incarnation of a consuming session. It holds the advisory lock of its id, and a lease of ten seconds."""

    __tablename__ = "broker_consumer"
    id: Mapped[int] = mapped_column(Integer, Identity(always=True), primary_key=True)
    lease_until: Mapped[datetime.datetime]
    #: names of the queues that it consumes, one for each subscription
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text))


class BrokerMessage(Base):
    """A message, from its confirm until its ack. `consumer` is the incarnation that has it in hands.

    There are no foreign keys: each would cost a lock per message, and `delete` and the sweep of lapsed consumers
    clean up in the right order.
    """

    __tablename__ = "broker_message"
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    queue: Mapped[int]
    consumer: Mapped[int | None]
    delivery_count: Mapped[int] = mapped_column(server_default=text("0"))
    message_id: Mapped[str]
    content_type: Mapped[str]
    headers: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    sent: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    body: Mapped[bytes]
    __table_args__ = (
        Index("ix_broker_message_ready", "queue", "seq", postgresql_where=text("consumer IS NULL")),
        Index("ix_broker_message_held", "consumer", postgresql_where=text("consumer IS NOT NULL")),
    )
