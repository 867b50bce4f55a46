"""Ends the program where the packages are missing that the tests' own servers need. Peers' environments lack them."""

import importlib.util

if importlib.util.find_spec("pytest") is None:
    raise SystemExit("the benchmarks start servers as the tests do and need the same packages: scripts/venv test")
