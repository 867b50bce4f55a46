"""What our own code logs inside somebody else's program."""

from __future__ import annotations

import sys

from pyfi_hpc import logs


def warnings_to_stderr() -> None:
    """Warnings and errors go to stderr, the rest nowhere: stdout is the program's. One that has configured structlog
    keeps its own way."""
    logs.set_up(_to_stderr)


def _to_stderr() -> None:
    import structlog

    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(30),
            # what stderr is when something is logged: programs, and tests, put another in its place
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )
