"""`pyfi demo`: the main job on real input, with harm done on the way: on this machine, or on a cluster in a box.

The input is the source of the running Python's standard library. A network of its own, in a state directory of its
own, is set up, used, checked by `pyfi_hpc.verify` and removed again.
"""

from __future__ import annotations

import os
from typing import TextIO

from pyfi_hpc.config import Settings
from pyfi_hpc.demo import show
from pyfi_hpc.demo.stage import LocalStage


def run(settings: Settings | None = None, out: TextIO | None = None) -> int:
    """Show the demo of one machine on `out` (stdout); 0 only if the invariant checker found every promise kept."""
    return show.run(LocalStage(settings or Settings.load()), out)


def run_on_cluster(out: TextIO | None = None) -> int:
    """Show the demo on a cluster in a box, a node of which is powered off on the way; else as `run`."""
    from pyfi_hpc.demo.cluster import ClusterStage

    return show.run(ClusterStage("multi" if os.geteuid() else "netns"), out)
