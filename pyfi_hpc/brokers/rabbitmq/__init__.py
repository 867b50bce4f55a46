"""The broker for sites: RabbitMQ 3.10 or newer, with quorum queues."""

from pyfi_hpc.brokers.rabbitmq.broker import RabbitBroker

__all__ = ["RabbitBroker"]
