"""What the soak runs; every execution leaves a line in a file."""

import time

from pyfi_hpc import current


def note(log: str) -> None:
    """One more execution of the call that runs."""
    with open(log, "a") as file:
        file.write(f"{current().id}\n")


def begin(x: int, log: str) -> tuple[int, str]:
    """The first of a line: what the next one is given."""
    note(log)
    return x + 1, log


def go_on(given: tuple[int, str]) -> tuple[int, str]:
    """The next ones."""
    return begin(*given)


def flaky(x: int, log: str) -> int:
    """Every fifth call fails at first."""
    note(log)
    if x % 5 == 0 and current().serial == 1:
        raise ValueError(f"not yet {x}")
    return 2 * x


def large(data: bytes, log: str) -> bytes:
    """Too large for a message, there and back."""
    note(log)
    return data[::-1]


def slow(x: int, log: str, seconds: float) -> int:
    """Some are always running when somebody is killed."""
    note(log)
    time.sleep(seconds)
    return -x
