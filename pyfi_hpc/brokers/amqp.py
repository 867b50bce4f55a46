"""A RabbitMQ address as text: what can be told of it before anything is opened.

Settings are checked with it as they are stored and read, so it loads neither a client for AMQP nor TLS.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from pyfi_hpc.model.names import nearest

SCHEMES = ("amqp", "amqps")
#: What an address may say besides. Source: https://pika.readthedocs.io/en/stable/modules/parameters.html
OTHERS = (
    "blocked_connection_timeout", "channel_max", "client_properties", "connection_attempts", "frame_max", "heartbeat",
    "locale", "retry_delay", "socket_timeout", "stack_timeout", "tcp_options",
)  # fmt: skip
_CURE = "name its authority: cacertfile"


@dataclass(frozen=True, slots=True)
class Tls:
    """What an address says of TLS; None: it does not say. Paths are of files on this host.

    Source: https://www.rabbitmq.com/docs/uri-query-parameters
    """

    cacertfile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    server_name_indication: str | None = None
    verify: str | None = None


_TLS = tuple(each.name for each in fields(Tls))


def parsed(uri: str) -> SplitResult:
    """The address in its parts; its port is the caller's affair.

    Raises:
        ValueError: it cannot be used; its text says why, and has no password in it.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ValueError("it is not an address") from error
    if parts.scheme not in SCHEMES:
        raise ValueError(f"it must begin with {' or '.join(f'{scheme}://' for scheme in SCHEMES)}")
    if not parts.hostname:
        raise ValueError("it names no host")
    if parts.username is not None and parts.password is None:
        raise ValueError("it names a user without a password")
    return parts


def tls(parts: SplitResult) -> Tls | None:
    """What it says of TLS; None where it asks for none.

    Raises:
        ValueError: an option is not known or cannot be had; its text says which.
    """
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "ssl_options" in given:  # pika's own: who is at the other end would be left to it
        raise ValueError("ssl_options may leave out the look at the broker's certificate; " + _CURE)
    if unknown := [name for name in given if name not in _TLS + OTHERS]:
        raise ValueError(_unknown(unknown[0], parts))
    said = {name: given[name] for name in _TLS if name in given}
    if parts.scheme != "amqps":
        if said:
            raise ValueError(f"{next(iter(said))} is for amqps://")
        return None
    if said.get("verify", "verify_peer") != "verify_peer":
        raise ValueError("without verify_peer anybody could be taken for the broker; " + _CURE)
    if empty := [name for name, value in said.items() if not value]:
        raise ValueError(f"{empty[0]} has no value")
    if "keyfile" in said and "certfile" not in said:
        raise ValueError("keyfile is of no use without certfile")
    return Tls(**said)


def _unknown(name: str, parts: SplitResult) -> str:
    if "@" in parts.query:  # what follows the ? may be of a password
        return "its options cannot be read"
    near = nearest(name, (*_TLS, *OTHERS))
    return f"there is no option {name}; did you mean {near}?" if near else f"there is no option {name}"


def without_tls(parts: SplitResult) -> str:
    """The address without the options for TLS, none of which pika knows."""
    others = [(name, value) for name, value in parse_qsl(parts.query) if name not in _TLS]
    return parts._replace(query=urlencode(others)).geturl()
