"""`pyfi demo`: the main job on this machine, on real input, with a worker killed on the way.

The input is the source of the running Python's standard library. A network of its own, in a state directory of its
own, is set up, used, checked by `pyfi_hpc.verify` and removed again.
"""

from __future__ import annotations

from typing import TextIO

from pyfi_hpc.config import Settings
from pyfi_hpc.demo import show
from pyfi_hpc.demo.stage import LocalStage


def run(settings: Settings | None = None, out: TextIO | None = None) -> int:
    """Show the demo of one machine on `out` (stdout); 0 only if the invariant checker found every promise kept."""
    return show.run(LocalStage(settings or Settings.load()), out)
