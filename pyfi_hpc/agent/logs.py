"""How a daemon's log looks: `timestamp=… level=… event=… key=value …` (logfmt) on stderr, times in UTC."""

from __future__ import annotations

import sys

from pyfi_hpc import logs


def log_to_stderr() -> None:
    """From now on everything of info and above is written to stderr, one line each."""
    logs.set_up(_logfmt)


def _logfmt() -> None:
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], drop_missing=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        # what stderr is when something is logged: tests put another in its place
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
