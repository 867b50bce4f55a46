"""Every error a caller can see: what happened, where, and what to do next.

The tree follows what the *caller* can do about it; `code` names the exact case:

    PyfiError
    ├── BadInput            refused, nothing changed                       exit 2
    ├── Unavailable         a service cannot be reached, try again         exit 3
    │   ├── DatabaseUnavailable
    │   └── BrokerUnavailable
    ├── TaskError           the work itself ended without a value          exit 1
    │   ├── RemoteError     the task raised
    │   ├── WorkerLost      the process that ran it went away
    │   ├── Dead            the retry budget is spent
    │   └── Cancelled
    ├── WaitTimeout         the wait is over, the work goes on             exit 4
    └── Fault               ours                                           exit 5

This module needs nothing but the standard library: workers import it inside the user's own environment.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Mapping
from typing import Any

#: Code -> what it means. The reference page of the docs is made from this table.
CODES: Mapping[str, str] = {
    "E_ARGUMENT": "an option does not fit the others",
    "E_ARRAY": "an array's bytes do not fit its shape and dtype",
    "E_BACKPRESSURE": "the queue is full and stayed full until the timeout",
    "E_BAD_TRANSITION": "the status cannot change that way",
    "E_BROKER": "the broker cannot be reached",
    "E_BROKER_BLOCKED": "the broker refuses to take messages for now (disk or memory alarm)",
    "E_BROKER_URI": "the broker address cannot be used",
    "E_BROKER_VERSION": "the broker is older than we support",
    "E_BUILD": "the processor's environment could not be built",
    "E_CANCELLED": "the invocation was cancelled",
    "E_CHOICE": "the value is not one of those allowed",
    "E_COMMIT": "not a full 40-digit commit, or not a branch or tag of the repository",
    "E_COMMIT_UNAVAILABLE": "the commit cannot be fetched from the repository",
    "E_CONFIG": "a settings file cannot be read or names an unknown key",
    "E_CONFIG_MODE": "a settings file holds a password and can be read by others",
    "E_CONFIRM": "this destroys something and was not confirmed",
    "E_CONTENT_TYPE": "the message is not of our content type",
    "E_CYCLE": "the plug would close a loop",
    "E_DB_UNAVAILABLE": "the database does not answer",
    "E_DB_UNSAFE": "the database may lose committed rows (fsync or full_page_writes is off)",
    "E_DB_URI": "the database address cannot be used",
    "E_DEAD": "every attempt that the retry budget allows has failed",
    "E_DECODE": "the bytes are not a well-formed message",
    "E_DENIED": "the caller lacks the right",
    "E_DIGEST": "a blob's content is not what its name says",
    "E_DIRECTIVE": "a #SBATCH or #PYFI line cannot be used",
    "E_DTYPE": "arrays of this dtype are not carried",
    "E_EXISTS": "the name is taken",
    "E_FENCED": "the write names an attempt or lease that is no longer current",
    "E_FIELD": "a message has a field too many, too few or of the wrong type",
    "E_FORGOTTEN": "the value is gone: it was forgotten or is past its retention",
    "E_ID": "not a usable invocation id",
    "E_ID_CONFLICT": "the id was already used for another call",
    "E_IMAGE_PIN": "a container image must be named by digest",
    "E_IMPORT": "the processor's module cannot be imported",
    "E_IN_USE": "something still depends on the object",
    "E_INTERNAL": "a fault in pyfi itself",
    "E_LIMIT": "a size, depth or count is over its limit",
    "E_MISSING": "a required value is missing",
    "E_MODULE": "the module is not one of the repository's own",
    "E_NAME": "not a usable name: a letter, then up to 62 letters, digits, '_', '.' or '-'",
    "E_NODE": "the node is unknown or takes no work",
    "E_NODE_LEASED": "another agent serves this node",
    "E_NO_SLURM": "Slurm's commands are not installed here",
    "E_NOT_ACCEPTED": "some invocations were not accepted",
    "E_NOT_FOUND": "no such object",
    "E_OWNER": "the message's owner is not the owner of its socket",
    "E_PATH": "a path leads out of its folder",
    "E_PIPE_PROTOCOL": "a worker does not keep to the protocol of the pipes",
    "E_QUEUE_MISMATCH": "the broker has a queue of that name with other arguments",
    "E_RANGE": "the number is out of range",
    "E_REMOTE": "the task raised an exception",
    "E_REPO_DENIED": "the repository is not on the allow-list",
    "E_REPO_SCHEME": "repositories of this scheme are never used",
    "E_REPO_SECRET": "the repository's address contains a password",
    "E_REPO_URL": "the repository's address cannot be used",
    "E_SCHEMA": "the database's schema and this program do not fit each other",
    "E_SLURM": "Slurm's controller does not answer",
    "E_STALE": "the object was changed since it was read",
    "E_STORAGE_FULL": "no space is left for the data",
    "E_SUBMIT": "Slurm refuses the job",
    "E_SUPERSEDED": "a newer incarnation of the job serves this node",
    "E_SUSPECT_OBSERVATION": "too much seems to have gone at once to act on it",
    "E_TASK_NOT_FOUND": "the module has no such task",
    "E_TIME_FORMAT": "not a time limit as Slurm writes it",
    "E_TIMEOUT": "the time limit passed",
    "E_TYPE": "a value of this type cannot be sent",
    "E_UNKNOWN_SOCKET": "no such socket, or its commit has no such task",
    "E_UNSATISFIABLE": "no node can ever satisfy the request",
    "E_USAGE": "the command line cannot be understood",
    "E_WIRE_VERSION": "the message was written by a newer version",
    "E_WORKER_LOST": "the worker process ended while it ran the call",
}


def shown(value: object, limit: int = 80) -> str:
    """`value` as one safe line: control characters escaped, cut at `limit` characters."""
    text = value if isinstance(value, str) else repr(value)
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return line if len(line) <= limit else line[: limit - 1] + "…"


class PyfiError(Exception):
    """What happened, under one of our codes.

    Attributes:
        code: a key of `CODES`.
        what: one line for a person.
        at: the field, file or place, with the offending value; None where there is none.
        cure: one command or sentence that mends it; None where nobody can.
        facts: the same in machine form (`field`, `value`, `ids`, …).
    """

    exit_code = 5

    def __init__(self, code: str, what: str, *, at: str | None = None, cure: str | None = None, **facts: Any) -> None:
        if code not in CODES:
            raise KeyError(f"unknown error code {code}")
        self.code, self.what, self.at, self.cure, self.facts = code, shown(what, 400), at, cure, facts
        super().__init__(self.what)

    def __str__(self) -> str:
        lines = [f"{self.what} ({self.code})"]
        if self.at:
            lines.append(f"  at:  {shown(self.at, 400)}")
        if self.cure:
            lines.append(f"  try: {shown(self.cure, 400)}")
        return "\n".join(lines)

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), self.code, self.what, self.at, self.cure, self.facts)


def _rebuilt(kind: type[PyfiError], code: str, what: str, at: str | None, cure: str | None, facts: Any) -> PyfiError:
    return kind(code, what, at=at, cure=cure, **facts)


class BadInput(PyfiError):
    """Refused: the request is wrong as it stands, and nothing was changed."""

    exit_code = 2

    @classmethod
    def of(cls, code: str, field: str, value: object, what: str | None = None, *, cure: str | None = None) -> BadInput:
        """Refuse `value` of `field`; `what` says why where the code alone does not."""
        told = shown(value)
        return cls(code, what or CODES[code], at=f"{field} {told}", cure=cure, field=field, value=told)


class Unavailable(PyfiError):
    """A service cannot be reached or cannot take more; the same request may be repeated."""

    exit_code = 3


class DatabaseUnavailable(Unavailable):
    """The control plane's database does not answer."""


class BrokerUnavailable(Unavailable):
    """The broker does not answer, is blocked, or a queue stayed full."""


class TaskError(PyfiError):
    """The invocation ended without a value."""

    exit_code = 1


class RemoteError(TaskError):
    """The task raised; `facts` has `type`, `message` and the remote `traceback` as text."""


class WorkerLost(TaskError):
    """The process that ran the call went away; `facts["cause"]` says how."""


class Dead(TaskError):
    """The retry budget is spent; `facts` has `cause`, `attempts` and the last error."""


class Cancelled(TaskError, concurrent.futures.CancelledError):
    """The invocation was cancelled; also a `concurrent.futures.CancelledError`."""


class WaitTimeout(PyfiError, TimeoutError):
    """The wait's time is over; the work goes on. Also a builtin `TimeoutError`."""

    exit_code = 4


class Fault(PyfiError):
    """A fault of ours."""
