"""The agent: the daemon of one node. It consumes for all its workers, feeds, watches and restarts them, and commits.

Two threads of its own, and the broker's:

    service   (main)     workers' sockets, their processes, time and memory limits; what is handed to whom (`dispatch`)
    committer (thread)   the one database connection: looks up, commits, forwards, settles (folder `commit`)
"""
