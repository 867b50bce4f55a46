"""Pipes as the agent sees them: who may use one, what has gone through, and when it is handed to the committer.

`outlets` and `segments` are pure, as `abroad` is; `piping` is the service's part. `between`, `siblings` and `greetings`
are for pipes that lead to other nodes of the job.
"""
