"""Two small tasks to try a network with.

A task is a public function at the top of a module. In a workflow the result of the step before comes first,
so both take further arguments.
"""


def do_something(message: object, *more: object) -> str:
    """Say what was done with the message."""
    return f"Did something with {_spoken(message, *more)}"


def do_this(message: object, *more: object) -> str:
    """Say that this was done, and to what."""
    return f"Did this: {_spoken(message, *more)}"


def _spoken(*messages: object) -> str:
    return ", then ".join(str(message) for message in messages)
