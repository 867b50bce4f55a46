"""The original's way to write a network down: objects that are found or made, and sockets that can be called.

    processor = Processor(name="proc1", module="pyfi.processors.sample", branch="main", gitrepo="https://…")
    do_something = Socket(name="proc1.socket1", processor=processor, queue={"name": "pyfi.queue1"}, task="do_something")
    do_something("Hello World !")

An object that is there already is taken as it is; what is asked of it otherwise is refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from pyfi_hpc.client.broadcast import Broadcast
from pyfi_hpc.client.client import Client
from pyfi_hpc.client.futures import Future

if TYPE_CHECKING:
    from pyfi_hpc.client.network import Network

_lock = threading.Lock()
_client: Client | None = None

#: A queue is named, described as the keyword arguments of `Queue`, or given.
QueueLike: TypeAlias = "Queue | str | Mapping[str, Any]"


def use(client: Client | None) -> None:
    """Have everything here work through `client`; None: through one of its own, made when needed."""
    global _client
    with _lock:
        _client = client


def client() -> Client:
    """The client that everything here works through."""
    global _client
    with _lock:
        if _client is None:
            _client = Client()
        return _client


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_in_child)


def network() -> Network:
    """The network's objects: add, change, list, delete."""
    return client().network


class Object:
    """One object of the network, found by its name or made; its columns are attributes."""

    kind: ClassVar[str]

    def __init__(self, name: str, **values: Any) -> None:
        """Raises E_EXISTS where an object of that name differs from what is asked for."""
        wanted = {key: value for key, value in values.items() if value is not None}
        self._record: dict[str, Any] = getattr(network(), f"ensure_{self.kind}")(name=name, **wanted)

    @property
    def name(self) -> str:
        """Its name."""
        return str(self._record["name"])

    @property
    def id(self) -> str:
        """Its id."""
        return str(self._record["id"])

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_record"][name]
        except KeyError:
            raise AttributeError(f"a {type(self).__name__} has no {name!r}") from None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Queue(Object):
    """A durable queue: `type` is direct, topic or fanout; `kind` is how RabbitMQ keeps it, quorum or classic."""

    kind = "queue"

    def __init__(
        self, name: str, *, type: str | None = None, max_length: int | None = None, kind: str | None = None
    ) -> None:
        super().__init__(name, type=type, max_length=max_length, kind=kind)

    def publish(self, *args: object, **kwargs: object) -> Broadcast:
        """Call every task that is bound to it, as `Client.publish`."""
        return client().publish(self.name, *args, **kwargs)  # type: ignore[arg-type]

    @classmethod
    def of(cls, given: QueueLike) -> Queue:
        """The queue that a caller means."""
        if isinstance(given, Queue):
            return given
        return cls(given) if isinstance(given, str) else cls(**given)


class Node(Object):
    """A host."""

    kind = "node"

    def __init__(self, name: str, *, host: str | None = None) -> None:
        super().__init__(name, host=host)


class Processor(Object):
    """Code at one commit that offers tasks; wanted running from the moment it is made.

    `gitrepo` and `module` are needed to make one; `branch` or `commit` say which version, `shape` is as in
    `pyfi add processor` (`workers`, `cpus`, `timeout_seconds`, …).
    """

    kind = "processor"

    def __init__(
        self,
        name: str,
        *,
        gitrepo: str | None = None,
        module: str | None = None,
        branch: str | None = None,
        commit: str | None = None,
        **shape: Any,
    ) -> None:
        super().__init__(name, gitrepo=gitrepo, module=module, branch=branch, commit=commit, **shape)

    def start(self) -> None:
        """It is wanted running."""
        network().start(self.name)

    def stop(self) -> None:
        """It is wanted stopped; what runs ends first."""
        network().stop(self.name)

    def pause(self) -> None:
        """Its workers stay but take nothing more."""
        network().pause(self.name)

    def resume(self) -> None:
        """A paused one goes on."""
        network().resume(self.name)

    def restart(self) -> None:
        """Its workers are replaced, one first and then the others."""
        network().restart(self.name)


class Socket(Object):
    """One task of a processor behind a queue. Calling it calls the task and returns the value."""

    kind = "socket"

    def __init__(
        self,
        name: str,
        *,
        processor: Processor | str | None = None,
        queue: QueueLike | None = None,
        task: str | None = None,
        **more: Any,
    ) -> None:
        through = Queue.of(queue).name if queue is not None else None
        super().__init__(name, processor=_name(processor), queue=through, task=task, **more)

    def __call__(self, *args: object, timeout: float | None = None, **kwargs: object) -> Any:
        """The value of one call, waited for `timeout` seconds at most."""
        return client().call(self.name, *args, timeout=timeout, **kwargs)

    def delay(self, *args: object, **kwargs: object) -> Future:
        """The future of one call, once it is accepted."""
        return client().submit(self.name, *args, **kwargs)  # type: ignore[arg-type]

    def map(self, *iterables: Iterable[object], **how: Any) -> Iterator[Any]:
        """As `Client.map`."""
        return client().map(self.name, *iterables, **how)


#: The old name of a socket.
Outlet = Socket


class Plug(Object):
    """Carries the results of a processor, or of one of its sockets, to the tasks bound to a queue, or to one socket."""

    kind = "plug"

    def __init__(
        self,
        name: str,
        *,
        processor: Processor | str | None = None,
        queue: QueueLike | None = None,
        source: Socket | str | None = None,
        target: Socket | str | None = None,
        key: str | None = None,
        route: str | None = None,
    ) -> None:
        through = Queue.of(queue).name if queue is not None else None
        ends = {"processor": _name(processor), "queue": through, "source": _name(source), "target": _name(target)}
        super().__init__(name, **ends, key=key, route=route)


def _name(given: Object | str | None) -> str | None:
    return given.name if isinstance(given, Object) else given


__all__ = ["Future", "Node", "Outlet", "Plug", "Processor", "Queue", "Socket", "client", "network", "use"]
