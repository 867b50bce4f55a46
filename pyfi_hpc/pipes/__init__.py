"""Pipes: values straight from worker to worker, of one node or of nodes of one job.

The reasons are in `docs/decisions/0007-pipes.md` and `0008-node-pipes.md`.

    protocol   what is said        window, sending, receiving, spill   pure: who may send how much, who has what
    memory     large values        sockets                             ZeroMQ, and nothing else knows of it
    curve      keys, and who is let in over TCP

Nothing here imports more than the standard library, msgspec and `pyfi_hpc.{wire,errors}`; ZeroMQ in `sockets` and
`curve` alone.
"""
