"""TLS to the broker, as its address asks for it, and what can be wrong with it.

The options are RabbitMQ's own. Source: https://www.rabbitmq.com/docs/uri-query-parameters
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import SplitResult, parse_qsl, urlencode

import pika

_OPTIONS = ("cacertfile", "certfile", "keyfile", "server_name_indication", "verify")
#: Source: openssl/x509_vfy.h, X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_OTHER_HOST = (62, 64)


def wanted(parts: SplitResult) -> pika.SSLOptions | None:
    """What pika needs for TLS; None where the address asks for none.

    The broker's certificate is always looked at: `cacertfile` names the authorities to trust, else the system's are;
    it must be one for `server_name_indication`, or else for the host. `certfile` and `keyfile` are our own.

    Raises:
        ValueError: an option cannot be had; its text says which.
    """
    given = dict(parse_qsl(parts.query))
    options = {name: given.get(name) for name in _OPTIONS}
    if parts.scheme != "amqps":
        if said := [name for name, value in options.items() if value is not None]:
            raise ValueError(f"{said[0]} is for amqps://")
        return None
    if options["verify"] not in (None, "verify_peer"):
        raise ValueError("without verify_peer anybody could be taken for the broker; name its authority: cacertfile")
    return pika.SSLOptions(_context(options), options["server_name_indication"] or parts.hostname)


def without(parts: SplitResult) -> str:
    """The address without the options for TLS, none of which pika knows."""
    others = [(name, value) for name, value in parse_qsl(parts.query) if name not in _OPTIONS]
    return parts._replace(query=urlencode(others)).geturl()


def _context(options: Mapping[str, str | None]) -> ssl.SSLContext:
    with _told("cacertfile", options["cacertfile"]):
        context = ssl.create_default_context(cafile=options["cacertfile"])
    if (own := options["certfile"]) is not None:
        with _told("certfile or keyfile", own):
            # one that needs a pass phrase must not ask for it on a terminal
            context.load_cert_chain(own, options["keyfile"], password="")
    return context


@contextmanager
def _told(option: str, path: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"{option} {path} cannot be read: {error.strerror or error}") from error


def meaning(error: BaseException) -> tuple[str, str] | None:
    """What is wrong and its cure, for a person; None where it is not TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OTHER_HOST:
            what = f"the broker's certificate is for another host: {error.verify_message}"
            return what, "write a name into broker.uri that the certificate has, or add ?server_name_indication=NAME"
        what = f"the broker's certificate cannot be trusted: {error.verify_message}"
        return what, "name the file of its authority in broker.uri: amqps://…/VHOST?cacertfile=/etc/ssl/ca.pem"
    if isinstance(error, ssl.SSLError):
        what = f"no TLS with the broker: {error.reason or error}"
        return what, "check that the port is the one for TLS, usually 5671, and that the broker asks for no certificate"
    return None
