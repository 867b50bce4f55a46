"""The Python client: calls in, futures out. Importing opens no connection."""
