"""The embedded broker: queues as rows of the database that is there anyway, woken by LISTEN and NOTIFY."""

from __future__ import annotations

from pyfi_hpc.brokers.postgres.broker import PostgresBroker

__all__ = ["PostgresBroker"]
