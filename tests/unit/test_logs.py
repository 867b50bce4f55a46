"""What our loggers say of an exception: its traceback, and never what its frames held."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from structlog.testing import capture_logs

from pyfi_hpc.logs import logger

log = logger()
SECRET = "hunter2"


def fails(password: str) -> None:
    raise ValueError(f"{len(password)} letters are too few")


@pytest.mark.parametrize("how", ["exception", "true", "error", "tuple"])
def test_a_traceback_is_text_before_anybody_renders_it(how: str) -> None:
    with capture_logs() as told:
        try:
            fails(SECRET)
        except ValueError as error:
            given: dict[str, Any] = {"true": True, "error": error, "tuple": (type(error), error, error.__traceback__)}
            log.exception("it failed", id=1) if how == "exception" else log.error(
                "it failed", id=1, exc_info=given[how]
            )
    (entry,) = told
    trace = entry.pop("exception")
    assert entry == {"event": "it failed", "id": 1, "log_level": "error"}
    assert trace.startswith("Traceback") and trace.endswith("ValueError: 7 letters are too few")
    assert SECRET not in trace


def test_what_is_no_exception_has_no_traceback() -> None:
    with capture_logs() as told:
        log.error("it failed", exc_info=None)
        log.error("it failed", exc_info=True)
    assert told == [{"event": "it failed", "log_level": "error"}] * 2


_PROGRAM = """
import sys, structlog
from pyfi_hpc.client.logs import warnings_to_stderr
from pyfi_hpc.logs import logger
if sys.argv[1] == "own":
    shown = structlog.tracebacks.ExceptionDictTransformer(show_locals=True)
    chain = [structlog.processors.ExceptionRenderer(shown), structlog.processors.JSONRenderer()]
    structlog.configure(chain, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
elif sys.argv[1] == "client":
    warnings_to_stderr()
else:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

def fails(password):
    raise ValueError("too few letters")

try:
    fails("-".join(("hunter", "2")))
except ValueError as error:
    logger().exception("one")
    logger().warning("two", exc_info=error)
"""


@pytest.mark.parametrize("configured", ["client", "own", "default"])
def test_no_renderer_shows_what_frames_held(configured: str) -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, configured], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("ValueError: too few letters") == 2
    assert "hunter-2" not in done.stderr
    # whoever has set structlog up keeps his own way
    assert done.stderr.startswith("{") == (configured == "own")
