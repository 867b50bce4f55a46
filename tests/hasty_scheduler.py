"""The program `hasty_scheduler.py NAME=SECONDS …`: `pyfi scheduler start` with the patience that its arguments give."""

from __future__ import annotations

import signal
import sys
import threading

from pyfi_hpc.agent.logs import log_to_stderr
from pyfi_hpc.cli.context import Platform
from pyfi_hpc.control.pilots import Patience
from pyfi_hpc.db import jobs as rows


def main() -> None:
    """Serve the only scheduler until stopped."""
    log_to_stderr()
    control = Platform().control
    name = control.database.run(lambda cursor: rows.find_or_make_scheduler(cursor, control.network, None))
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    serving = control.scheduler(name, Patience(**{key: float(value) for key, value in given.items()}))
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=serving.stop).start())
    serving.run()


if __name__ == "__main__":
    main()
