"""Does a call cost more where there is much: many queues, many workers, a long record? Set against itself.

sites.py   a small installation and a large one, side by side     __main__.py   the command
"""
