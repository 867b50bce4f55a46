"""The peer's side of the comparison, run in the peer's own environment: a broker and the actors.

Durable queues and persistent messages are dramatiq's own; each publish is confirmed. It declares classic queues.
"""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.encoder import PickleEncoder
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.drivers import tasks

# arrays travel in it
dramatiq.set_encoder(PickleEncoder())
broker = RabbitmqBroker(url=os.environ["BENCH_BROKER"], confirm_delivery=True)
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_RESULTS"], encoder=PickleEncoder())))
dramatiq.set_broker(broker)

double, total, where = (
    dramatiq.actor(actor_name=function.__name__, store_results=True)(function)
    for function in (tasks.double, tasks.total, tasks.where)
)
