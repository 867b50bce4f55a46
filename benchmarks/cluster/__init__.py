"""What the control plane costs on a cluster: on real Slurms and databases of its own, no peer at hand for most of it.

report.py       rounds and their table         __main__.py   the command
synthetic.py    many nodes, workers, jobs      store.py      the same as rows of a database
passes.py queries.py first_result.py           one benchmark each
"""
