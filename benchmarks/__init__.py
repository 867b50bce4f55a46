"""What pyfi-hpc costs beside its peers: every system in the same interleaved run, on the same machine.

measures.py   what is measured             table.py   medians and ratios of it
system.py     what can be measured         driver.py  the program that calls, one for each system
pyfi.py celery.py                          one system each, with what it needs
"""
