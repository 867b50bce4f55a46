"""`python -m pyfi_hpc` is `pyfi`."""

from pyfi_hpc.cli.main import main

main()
