"""dramatiq over RabbitMQ, its results in Redis."""

from __future__ import annotations

from benchmarks.peers import ServedPeer
from benchmarks.system import WORKERS


class Dramatiq(ServedPeer):
    """Two processes of one thread each."""

    name = "dramatiq"
    what = f"dramatiq, RabbitMQ classic queue, Redis results, -p {WORKERS} -t 1"
    requirements = ("dramatiq[rabbitmq,redis]>=2,<3", "numpy")
    command = (*f"dramatiq benchmarks.drivers.dramatiq_app -p {WORKERS} -t 1".split(),)
