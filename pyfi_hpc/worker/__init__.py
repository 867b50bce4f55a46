"""The worker: one process that imports a processor's module once and runs its calls, in the user's own environment.

Nothing here imports more than the standard library, msgspec and `pyfi_hpc.{worker,wire,pipes,errors}`.
"""
