"""Celery, as durable as it gets: quorum queue, confirmed publishes, late acks, results in Redis."""

from __future__ import annotations

from benchmarks.peers import ServedPeer
from benchmarks.system import WORKERS, Surroundings


class Celery(ServedPeer):
    """One worker process of the prefork kind with two children."""

    name = "celery"
    what = f"Celery, RabbitMQ quorum queue, Redis results, prefork -c {WORKERS}"
    requirements = ("celery[redis]>=5.5,<6", "numpy")
    command = (
        *f"celery --app benchmarks.drivers.celery_app worker --pool prefork -c {WORKERS} --loglevel WARNING".split(),
        "--without-gossip",
        "--without-mingle",
    )

    def environment(self, around: Surroundings) -> dict[str, str]:
        """See `Peer`; as root it refuses pickle otherwise."""
        return super().environment(around) | {"C_FORCE_ROOT": "1"}
