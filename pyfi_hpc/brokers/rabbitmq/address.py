"""The broker's address, and what can be wrong with it or behind it."""

from __future__ import annotations

import logging
import re
from urllib.parse import SplitResult

import pika
import pika.exceptions as failures
from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout

from pyfi_hpc.brokers import amqp, tls
from pyfi_hpc.errors import BadInput, BrokerUnavailable

# what it would tell, we tell in our own words
logging.getLogger("pika").setLevel(logging.CRITICAL)

#: Seconds for a TCP connection, and for all of TCP, TLS and AMQP together.
SOCKET_SECONDS, STACK_SECONDS = 5, 10


def redacted(uri: str) -> str:
    """Scheme, host, port and vhost of `uri`, fit for a log: whatever may belong to a password is left out."""
    scheme, separator, rest = uri.partition("://")
    if scheme not in amqp.SCHEMES or not separator:
        return "(not an address)"
    # a password that was not escaped may hold any sign: only what follows the last @ is surely none of it
    return f"{scheme}://{re.split('[?#]', rest.rpartition('@')[2])[0]}"


def parameters(uri: str, *, heartbeat: int, name: str) -> pika.URLParameters:
    """What pika needs to connect; `heartbeat` seconds unless the address has its own, `name` for the broker's lists.

    Raises:
        BadInput: E_BROKER_URI, or E_RANGE for the port; the password is in neither.
    """
    try:
        parts = amqp.parsed(uri)
        _check_port(parts)
        ssl_options = _tls(parts)
    except ValueError as error:
        raise _bad_uri(uri, str(error)) from error
    try:
        made = pika.URLParameters(amqp.without_tls(parts))
    except Exception as error:  # pika raises whatever its parsers raise
        raise _bad_uri(uri, "its options cannot be read") from error
    made.ssl_options = ssl_options
    if "heartbeat=" not in parts.query:
        made.heartbeat = heartbeat
    made.connection_attempts = 1
    made.socket_timeout, made.stack_timeout = SOCKET_SECONDS, STACK_SECONDS
    # an alarm may last: a blocked connection waits until it clears
    made.blocked_connection_timeout = None
    made.client_properties = {"connection_name": name, "product": "pyfi-hpc"}
    return made


def _tls(parts: SplitResult) -> pika.SSLOptions | None:
    """What pika needs for TLS: the certificate must be for this name."""
    if (wanted := amqp.tls(parts)) is None:
        return None
    return pika.SSLOptions(tls.context(wanted), wanted.server_name_indication or parts.hostname)


def _check_port(parts: SplitResult) -> None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        written = parts.netloc.rpartition(":")[2]
        # without a host, this may be the password
        shown = written if written.isdigit() else "(not a number)"
        raise BadInput.of("E_RANGE", "broker.uri port", shown, "a port is a number from 1 to 65535") from None


def _bad_uri(uri: str, why: str) -> BadInput:
    return BadInput.of(
        "E_BROKER_URI",
        "broker.uri",
        redacted(uri),
        f"the broker address cannot be used: {why}",
        cure="write amqp://user:password@host:5672/vhost",
    )


def unavailable(error: BaseException, uri: str) -> BrokerUnavailable:
    """What a failed or lost connection means to a person."""
    what, cure = _meaning(error)
    return BrokerUnavailable("E_BROKER", what, at=f"broker.uri {redacted(uri)}", cure=cure)


def _meaning(error: BaseException) -> tuple[str, str]:
    text = str(error)
    if (
        isinstance(error, failures.ProbableAuthenticationError | failures.AuthenticationError)
        or "ACCESS_REFUSED" in text
    ):
        return "the broker refused user and password", "check both in broker.uri: rabbitmqctl authenticate_user NAME"
    if isinstance(error, failures.ProbableAccessDeniedError) or "NOT_ALLOWED" in text:
        return (
            "the broker knows the user but lets it not into the virtual host, or has no such virtual host",
            "check the vhost in broker.uri: rabbitmqctl list_permissions --vhost VHOST",
        )
    if isinstance(error, failures.AMQPHeartbeatTimeout):
        return "the broker sent no heartbeat", "check that host and network answer"
    if tls_trouble := tls.meaning(_innermost_error(error)):
        return tls_trouble
    # a connection that is given up while it opens tells why in words alone
    if isinstance(_innermost_error(error), AMQPConnectorStackTimeout) or "Timeout while setting up AMQP" in text:
        return "the broker takes connections and does not answer", "check that it is a broker, and not stalled"
    return f"the broker cannot be reached: {_innermost(error)}", "check that the broker runs and the address is right"


def _innermost(error: BaseException) -> str:
    found = _innermost_error(error)
    return str(found) or type(found).__name__


def _innermost_error(error: BaseException) -> BaseException:
    # pika keeps what it met on the way in attributes of its own
    while isinstance(inner := _inner(error), BaseException):
        error = inner
    return error


def _inner(error: BaseException) -> object:
    several = getattr(error, "exceptions", None) or (None,)
    return several[-1] or getattr(error, "exception", None) or next(iter(error.args), None)
