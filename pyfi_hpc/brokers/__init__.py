"""Brokers: durable queues behind one protocol (`base`), and the kinds that keep it."""
