"""The peer's side of the comparison, run in the peer's own environment: an app with the tasks.

As durable as Celery gets: a quorum queue, persistent messages, each publish confirmed, acks only after the run.
"""

from __future__ import annotations

import os

from celery import Celery
from kombu import Queue

from benchmarks.drivers import tasks

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_RESULTS"])
app.conf.update(
    task_queues=[Queue("bench", durable=True, queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue="bench",
    task_default_queue_type="quorum",
    worker_detect_quorum_queues=True,
    # 28 queues for calls with a delay, of which there are none here: this kind is declared sooner
    broker_native_delayed_delivery_queue_type="classic",
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=4,
    # arrays travel in it
    task_serializer="pickle",
    result_serializer="pickle",
    accept_content=["pickle"],
)

double = app.task(name="double")(tasks.double)
where = app.task(name="where")(tasks.where)


@app.task(name="total")  # type: ignore[untyped-decorator]
def total(values: list[int]) -> int:
    """Their sum; a chord hands over a list."""
    return sum(values)
