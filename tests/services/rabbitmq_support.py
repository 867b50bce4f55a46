"""RabbitMQ as a service under test."""

from __future__ import annotations

import time
from dataclasses import replace

from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.brokers.base import Broker, TaskQueue
from pyfi_hpc.brokers.rabbitmq import RabbitBroker
from pyfi_hpc.brokers.rabbitmq.broker import SETTLE_SECONDS


class RabbitService:
    """A node of the tests' own, see `brokers_support.Service`; its queues may be used while they are young."""

    kind = "rabbitmq"
    durable = True
    counts = 1

    def __init__(self, server: RabbitMQ) -> None:
        self.server = server
        self.uri: str | None = server.uri

    def connect(self) -> Broker:
        """A broker that does not wait for a queue to settle."""
        return RabbitBroker(self.server.uri, settle_seconds=0)

    def cut(self) -> None:
        """Close every connection from the server's side."""
        assert self.sessions() > 0
        self.server.ctl("close_all_connections", "--global", "cut by a test")

    def sessions(self) -> int:
        """Connections of brokers."""
        return self.server.ctl("list_connections", "name").count("->")

    def restart(self) -> None:
        """SIGKILL, then start."""
        # the one place where age is a condition: a younger quorum queue does not come back
        time.sleep(SETTLE_SECONDS)
        self.server.restart(kill=True)


def look_for_late_acks(server: RabbitMQ, *, timeout_seconds: float, every_seconds: float = 0.5) -> None:
    """Set both for the channels that are opened from now on; RabbitMQ's own are 30 minutes and one.

    Source: rabbit.app, `consumer_timeout` and `channel_tick_interval`.
    """
    settings = {"consumer_timeout": timeout_seconds, "channel_tick_interval": every_seconds}
    calls = [f"application:set_env(rabbit, {name}, {seconds * 1000:.0f})" for name, seconds in settings.items()]
    server.ctl("eval", f"{', '.join(calls)}.")


class ClassicBroker(RabbitBroker):
    """Every queue that it declares is a classic one."""

    def declare(self, queue: TaskQueue) -> None:
        """As asked otherwise."""
        super().declare(replace(queue, kind="classic"))


class ClassicService(RabbitService):
    """The same node, with classic queues."""

    counts = 0

    def connect(self) -> Broker:
        """A broker that declares classic queues."""
        return ClassicBroker(self.server.uri, settle_seconds=0)
