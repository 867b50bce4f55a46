"""`pyfi demo`: the main job on this machine, on real input, with a worker killed on the way.

The input is the source of the running Python's standard library. A network of its own, in a state directory of its
own, is set up, used, checked by `pyfi_hpc.verify` and removed again.
"""

from pyfi_hpc.demo.show import run

__all__ = ["run"]
