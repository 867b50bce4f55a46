"""Dead letters: what a message looks like once it is set aside, the same for every kind of broker."""

from __future__ import annotations

from dataclasses import replace

from pyfi_hpc.brokers.base import Publication, Reason
from pyfi_hpc.errors import shown

#: The exchange of the dead letters; its keys are the networks.
DEAD_EXCHANGE = "dlx"
REASON, DETAIL, EXCHANGE, KEY = "x-pyfi-reason", "x-pyfi-detail", "x-pyfi-exchange", "x-pyfi-key"


def letter(network: str, publication: Publication, reason: Reason, detail: str) -> Publication:
    """`publication` on its way to the dead letters of `network`: why, and where it was going, in its headers."""
    return replace(
        publication,
        exchange=DEAD_EXCHANGE,
        key=network,
        headers={**publication.headers, **notes(publication.exchange, publication.key, reason, detail)},
    )


def notes(exchange: str, key: str, reason: Reason, detail: str) -> dict[str, str]:
    """The headers that say why a message of `exchange` and `key` was set aside."""
    return {REASON: reason.value, DETAIL: shown(detail, 400), EXCHANGE: exchange, KEY: key}
