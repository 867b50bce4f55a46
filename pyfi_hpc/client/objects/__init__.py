"""What can be done with each kind of object: one module a kind, functions on a database session."""
