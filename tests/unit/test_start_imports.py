"""What a start loads, and what it leaves until it is needed: most of a start's time is Python loading modules."""

from __future__ import annotations

import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from pyfi_hpc import logs


def loaded(modules: str) -> set[str]:
    """The modules that a fresh process has once it has these."""
    program = f"import {modules}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_an_agent_starts_without_what_it_needs_later_or_never() -> None:
    late = {"structlog", "rich", "git", "pynvml", "tarfile", "importlib.metadata", "sqlalchemy", "alembic", "numpy"}

    assert not late & loaded("pyfi_hpc.agent.main, pyfi_hpc.agent.serving")


def test_settings_are_read_and_checked_without_a_client_for_their_broker() -> None:
    assert not {"pika", "ssl", "structlog", "sqlalchemy"} & loaded("pyfi_hpc.cli.config")


def test_a_worker_starts_without_what_few_tasks_need() -> None:
    late = {"asyncio", "dataclasses", "ssl", "subprocess", "zmq", "numpy"}

    assert not late & loaded("pyfi_hpc.worker.options, pyfi_hpc.worker.isolation, pyfi_hpc.worker.serving")


def test_structlog_is_loaded_and_set_up_by_the_first_line_that_is_logged() -> None:
    program = """if True:
        import sys
        from pyfi_hpc.agent.logs import log_to_stderr
        from pyfi_hpc.client.logs import warnings_to_stderr
        from pyfi_hpc.logs import logger
        log = logger("pyfi.agent")
        log_to_stderr()
        warnings_to_stderr()
        before = "structlog" in sys.modules
        log.info("a line", number=1)
        print(before)
    """

    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
    assert 'level=info event="a line" number=1' in done.stderr


def test_a_capture_sees_loggers_that_were_made_before_it() -> None:
    log = logs.logger()

    with capture_logs() as lines:
        log.warning("seen", number=1)

    assert lines == [{"event": "seen", "number": 1, "log_level": "warning"}]


def test_a_logger_has_no_python_protocols() -> None:
    with pytest.raises(AttributeError):
        logs.logger().__length_hint__  # noqa: B018


@pytest.mark.parametrize("set_up", ["pyfi_hpc.agent.logs.log_to_stderr", "pyfi_hpc.client.logs.warnings_to_stderr"])
def test_a_line_that_cannot_be_written_ends_nobody_and_the_next_one_goes_where_stderr_is_then(set_up: str) -> None:
    module, name = set_up.rsplit(".", 1)
    program = f"""if True:
        import io, sys
        from {module} import {name}
        from pyfi_hpc.logs import logger
        log = logger("pyfi.agent")
        {name}()
        usual, sys.stderr = sys.stderr, io.StringIO()
        log.warning("first")
        sys.stderr.close()
        log.warning("lost")
        sys.stderr = usual
        log.warning("a line", number=1)
    """

    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)

    assert "a line" in done.stderr and "lost" not in done.stderr
