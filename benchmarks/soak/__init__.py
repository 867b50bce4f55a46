"""A soak: steady load for an hour or any other time, while parts are really killed; at its end the invariant checker.

stage.py   the installation     load.py    who calls, a process of its own     tasks.py    what is called
harm.py    who kills            watch.py   memory over time                    report.py   what came of it
"""
