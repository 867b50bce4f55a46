"""TLS to a broker, as its address asks for it, and what can be wrong with it."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from pyfi_hpc.brokers.amqp import Tls

#: Source: openssl/x509_vfy.h, X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_OTHER_HOST = (62, 64)


def context(wanted: Tls) -> ssl.SSLContext:
    """What a connection needs to be made; the files are read now.

    The broker's certificate is always looked at: `cacertfile` names the authorities to trust, else the system's are.
    `certfile` and `keyfile` are our own.

    Raises:
        ValueError: a file cannot be used; its text says which.
    """
    with _told("cacertfile", wanted.cacertfile):
        made = ssl.create_default_context(cafile=wanted.cacertfile)
    if wanted.certfile is not None:
        with _told("certfile or keyfile", wanted.certfile):
            # one that needs a pass phrase must not ask for it on a terminal
            made.load_cert_chain(wanted.certfile, wanted.keyfile, password="")
        _check_private(wanted.keyfile or wanted.certfile)
    return made


def _check_private(path: str) -> None:
    """A key is its owner's alone; root may share one with a group. Source: libpq's rule for `sslkey`."""
    found = os.stat(path)
    if stat.S_IMODE(found.st_mode) & (0o037 if found.st_uid == 0 else 0o077):
        raise ValueError(f"the key in {path} can be read by others; chmod 600 {path}")


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
