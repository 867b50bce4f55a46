"""What becomes of a finished call: commit → forward → ack.

committer   the thread with the one database connection: order and transactions
jobs        what it can be asked for
writing     inside a transaction; `verdicts` of single calls, `chains` of what came by pipes, `letters` of the dead
settling    after it: `forwarding` along plugs, replies, acks
spool       finished values while the database is away
"""
