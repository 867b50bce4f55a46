"""What pyfi-hpc costs beside its peers: every system in the same interleaved run, on the same machine.

measures.py   what is measured                     table.py report.py    medians and ratios of it, shown and kept
system.py     what can be measured                 drivers/              the programs that call, one for each system
pyfi.py       pyfi-hpc, on each of its brokers     peers.py              what others' systems have in common:
pipes.py      its pipes, and raw shared memory     celery.py dramatiq.py inprocess.py
scale/        large installations beside small     soak/                 load while everything is killed
cluster/      what the control plane costs
"""
