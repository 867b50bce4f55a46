"""`ENV/bin/python -m pyfi_hpc.worker --fd 3 …`: started by an agent, never by hand."""

from __future__ import annotations

import sys

from pyfi_hpc.worker import isolation, options

if __name__ == "__main__":
    chosen = options.parsed(sys.argv[1:])
    isolation.tie_to(chosen.parent)
    # only now: importing this takes a while, and the agent may end meanwhile
    from pyfi_hpc.worker.serving import serve

    serve(chosen)
