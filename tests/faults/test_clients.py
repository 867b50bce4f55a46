"""A client dies around a publish: what it was told is accepted has its outcome, the rest at most one (matrix 28)."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.site import Site

#: Submits one call for each id on its command line, one after the other; or all inputs at once.
SINGLY = """
import sys
from pyfi_hpc.client.client import Client
client = Client()
for number, identity in enumerate(sys.argv[2:]):
    client.submit("p.work", number, sys.argv[1], id=identity)
"""
TOGETHER = """
import sys
from pyfi_hpc.client.client import Client
client = Client()
client.submit_many("p.work", [(number, sys.argv[1]) for number in range(3000)])
"""


def die(site: Site, program: str, point: str, *arguments: str) -> list[str]:
    """Run `program` as a client that dies at `point`; the ids that it was told are accepted."""
    told = site.home / "accepted"
    environment = {**site.environment, "PYFI_FAILPOINT": point, "PYFI_ACCEPTED_LOG": str(told)}
    command = [sys.executable, "-c", program, str(site.runs), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    return _whole_lines(told)


def _whole_lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")] if file.exists() else []


@pytest.mark.parametrize("point", ["client_before_publish", "client_after_publish"])
def test_a_client_that_dies_loses_nothing_that_was_accepted(site: Site, point: str) -> None:
    site.processor("work", workers=1)
    ids = [str(uuid.uuid4()) for _ in range(8)]
    lines = die(site, SINGLY, f"{point}:crash:5", *ids)
    assert [str(uuid.UUID(line.strip())) for line in lines] == ids[:4]

    (site.home / "accepted").unlink()
    many = die(site, TOGETHER, f"{point}:crash:5")
    site.accepted += [line.strip() for line in [*lines, *many]]
    site.agent()
    site.ready()

    site.quiet()
    recorded = site.outcomes()
    # the fifth was on its way: at most once; the sixth was never sent
    expected = set(ids[:5]) if point == "client_after_publish" else set(ids[:4])
    assert recorded.keys() & set(ids) == expected
    assert {str(uuid.UUID(line.strip())) for line in many} <= recorded.keys()
    assert len(recorded) < 3000
    assert set(recorded.values()) == {"SUCCEEDED"}
    assert set(site.executions().values()) == {1}
