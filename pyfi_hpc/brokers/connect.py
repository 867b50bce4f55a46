"""From an address to a broker."""

from __future__ import annotations

from urllib.parse import urlsplit

from pyfi_hpc.brokers.base import Broker
from pyfi_hpc.errors import BadInput

_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg2")
_AMQP = ("amqp", "amqps")


def connect(uri: str | None, *, database_uri: str, ack_timeout_seconds: float = 1800) -> Broker:
    """The broker at `uri`: RabbitMQ for `amqp://` and `amqps://`, else the embedded one; None: in `database_uri`.

    Nothing is waited for: what cannot be reached is tried until it can. `ack_timeout_seconds` is RabbitMQ's own
    `consumer_timeout`; the embedded broker has none.

    Raises:
        BadInput: E_BROKER_URI.
    """
    address = uri or database_uri
    scheme = _scheme(address)
    if uri and scheme in _AMQP:
        return _rabbitmq(uri, ack_timeout_seconds)
    if scheme in _POSTGRES:
        from pyfi_hpc.brokers.postgres import PostgresBroker

        return PostgresBroker(address)
    raise BadInput.of("E_BROKER_URI", "broker.uri", f"{scheme}:…", cure="use amqp://, amqps:// or postgresql://")


def _scheme(address: str) -> str:
    """The address's scheme; the rest may hold a password and is not shown."""
    try:
        parts = urlsplit(address)
    except ValueError:
        raise BadInput.of("E_BROKER_URI", "broker.uri", "(malformed)") from None
    if parts.scheme in _AMQP and not parts.hostname:
        raise BadInput.of("E_BROKER_URI", "broker.uri", f"{parts.scheme}:…", "the address names no host")
    return parts.scheme


def _rabbitmq(uri: str, ack_timeout_seconds: float) -> Broker:
    from pyfi_hpc.brokers.rabbitmq import RabbitBroker

    return RabbitBroker(uri, ack_timeout_seconds=ack_timeout_seconds)
