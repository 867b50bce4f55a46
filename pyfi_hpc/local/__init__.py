"""`pyfi local`: everything of embedded mode in the background, once for each state directory.

`ensure` is what a command or a `Client()` calls that finds no database in its settings; `start`, `status` and `stop`
are the commands. The process itself is `local.service`, what it writes down `local.record`.
"""

from pyfi_hpc.local.control import ensure, start, status, stop

__all__ = ["ensure", "start", "status", "stop"]
