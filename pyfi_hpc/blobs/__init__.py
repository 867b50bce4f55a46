"""The control side of large values: the store that client and agent use, and its collection."""
