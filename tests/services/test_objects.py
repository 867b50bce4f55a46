"""Operations on a network's objects, on a real Postgres with the embedded broker on the same database."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from sqlalchemy import Engine, text

from pyfi_hpc.agent import keeper
from pyfi_hpc.agent.commit.ways import Way
from pyfi_hpc.box.rabbitmq import RabbitMQ
from pyfi_hpc.brokers.base import Broker, Depth, Publication, TaskQueue
from pyfi_hpc.brokers.connect import connect as connect_broker
from pyfi_hpc.brokers.rabbitmq import RabbitBroker
from pyfi_hpc.client.network import Network
from pyfi_hpc.client.objects import plugs
from pyfi_hpc.db import topology
from pyfi_hpc.db.engine import connect
from pyfi_hpc.db.topology import SocketInfo
from pyfi_hpc.envs.mirror import Mirror
from pyfi_hpc.envs.repository import Allow
from pyfi_hpc.errors import BadInput, BrokerUnavailable
from pyfi_hpc.wire import messages
from pyfi_hpc.wire.ids import call_digest, new_id, parse_id
from pyfi_hpc.wire.messages import Call, Message, Route
from tests.services.brokers_support import Inbox, eventually
from tests.support_git import commit_files, git, make_repository

SAMPLE = "def do_something(x, *, y=1):\n    return x\n\n\ndef do_this(x):\n    return x\n"
ONE = "def only(x):\n    return x\n"


class Repository:
    """A git repository with a module `flow.sample` of two tasks and a module `flow.one` of one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url, self.commit = make_repository(path, {"flow/sample.py": SAMPLE, "flow/one.py": ONE})

    def change(self, name: str, text: str) -> str:
        """Commit a new text of `flow/NAME.py`; the new commit."""
        return commit_files(self.path, {f"flow/{name}.py": text})


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """One that no test changes."""
    return Repository(tmp_path_factory.mktemp("git") / "r")


@pytest.fixture(scope="module")
def engine(database_uri: str) -> Iterator[Engine]:
    """An engine of the ordinary role."""
    engine = connect(database_uri)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def broker(database_uri: str) -> Iterator[Broker]:
    """The embedded broker on the same database."""
    broker = connect_broker(None, database_uri=database_uri)
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    """Mirrors of the module's own."""
    return Mirror(tmp_path_factory.mktemp("cache"))


Make = Callable[..., Network]


@pytest.fixture
def make(engine: Engine, broker: Broker, mirror: Mirror) -> Make:
    """Makes a network with nothing in it; `broker` and `rules` in place of the usual ones."""

    def made(name: str = "", **given: Any) -> Network:
        name = name or f"n{uuid.uuid4().hex[:8]}"
        with engine.begin() as connection:
            insert = "INSERT INTO pyfi.network (name) VALUES (:name) ON CONFLICT DO NOTHING"
            connection.execute(text(insert), {"name": name})
        usual: dict[str, Any] = {"rules": Allow(own_files=True), "mirror": mirror}
        return Network(engine, given.pop("broker", lambda: broker), name=name, **(usual | given))

    return made


@pytest.fixture
def net(make: Make) -> Network:
    """A network of the test's own."""
    return make()


@pytest.fixture
def flow(net: Network, repository: Repository) -> Network:
    """Queue q1, processor p1 with the sockets p1.a (do_something) and p1.b (do_this) on it."""
    net.add_queue(name="q1")
    net.add_processor(name="p1", gitrepo=repository.url, module="flow.sample")
    net.add_socket(name="p1.a", queue="q1", processor="p1", task="do_something")
    net.add_socket(name="p1.b", queue="q1", processor="p1", task="do_this")
    return net


def refused(call: Callable[..., object], *args: Any, **kwargs: Any) -> BadInput:
    """What `call` refuses."""
    with pytest.raises(BadInput) as caught:
        call(*args, **kwargs)
    return caught.value


def names(net: Network, kind: str) -> list[str]:
    return [row["name"] for row in net.list(kind)]


def sockets(engine: Engine, net: Network) -> dict[str, SocketInfo]:
    """What a client reads."""
    with engine.connect() as connection:
        found = topology.sockets(connection.connection.cursor(), net.name)
    return {socket.name: socket for socket in found}


def routes(engine: Engine, net: Network) -> dict[bytes, tuple[Route, ...]]:
    """What an agent reads."""
    with engine.connect() as connection:
        return topology.routes(connection.connection.cursor(), net.name)


def queue_name(socket: SocketInfo) -> str:
    return f"{socket.exchange}.{socket.key}.g{socket.generation}"


def send(broker: Broker, socket: SocketInfo, owner: str = "pyfi") -> bytes:
    """A call for the socket, accepted; its id."""
    call = Call(new_id(), b"args", call_digest(socket.id, b"args"))
    message = Message(1, new_id(), owner, socket.id, socket.generation, (call,))
    confirm = broker.publish(Publication(socket.exchange, socket.key, messages.encode(message), call.id.hex()))
    confirm.result(10)
    return call.id


def outcome(engine: Engine, call: bytes) -> str | None:
    """How a call ended."""
    with engine.connect() as connection:
        query = text("SELECT status::text FROM pyfi.outcome WHERE id = :id")
        found: str | None = connection.scalar(query, {"id": uuid.UUID(bytes=call)})
        return found


def hold(engine: Engine, socket: SocketInfo, state: str) -> bytes:
    """A held call for the socket; its id."""
    call = Call(new_id(), b"args", call_digest(socket.id, b"args"), 2)
    payload = messages.encode(Message(1, new_id(), "pyfi", socket.id, socket.generation, (call,)))
    insert = """INSERT INTO pyfi.hold (owner, id, state, serial, payload, exchange, key)
        VALUES ('pyfi', :id, CAST(:state AS pyfi.hold_state), 2, :payload, :exchange, :key)"""
    values = {"id": uuid.UUID(bytes=call.id), "state": state, "payload": payload}
    with engine.begin() as connection:
        connection.execute(text(insert), values | {"exchange": socket.exchange, "key": socket.key})
    return call.id


# queues


def test_a_queue_is_added_shown_and_listed(net: Network) -> None:
    identity = uuid.uuid4()
    made = net.add_queue(name="q1", type="topic", max_length=10, id=identity)
    assert (made["name"], made["type"], made["max_length"], made["owner"]) == ("q1", "topic", 10, "pyfi")
    assert made["id"] == str(identity)
    assert net.show("queue", "q1") == net.show("queue", identity) == made
    assert net.list("queue") == [made]


def test_a_taken_name_is_refused_with_its_id(net: Network) -> None:
    made = net.add_queue(name="q1")
    error = refused(net.add_queue, name="q1")
    assert error.code == "E_EXISTS"
    assert made["id"] in str(error)
    assert refused(net.add_queue, name="q2", id=uuid.UUID(made["id"])).code == "E_EXISTS"
    assert names(net, "queue") == ["q1"]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"name": "Proc 1"}, "E_NAME"),
        ({"name": "'; DROP TABLE x;--"}, "E_NAME"),
        ({"name": "a\x00b"}, "E_NAME"),
        ({"name": "q", "type": "fanot"}, "E_CHOICE"),
        ({"name": "q", "max_length": 0}, "E_RANGE"),
    ],
)
def test_a_bad_queue_is_refused_and_nothing_is_made(net: Network, values: dict[str, Any], code: str) -> None:
    error = refused(net.add_queue, **values)
    assert error.code == code
    if code == "E_CHOICE":
        assert error.cure == "did you mean fanout?"
    assert net.list("queue") == []


def test_a_queue_keeps_its_limit_while_tasks_are_bound(flow: Network) -> None:
    error = refused(flow.update_queue, "q1", max_length=5)
    assert (error.code, error.facts["socket"]) == ("E_IN_USE", 2)
    flow.add_queue(name="q2")
    assert flow.update_queue("q2", max_length=5)["max_length"] == 5


def test_a_used_queue_is_deleted_only_with_what_uses_it(flow: Network, broker: Broker, engine: Engine) -> None:
    flow.add_queue(name="q2")
    flow.add_plug(name="out", queue="q2", processor="p1")
    flow.add_plug(name="in", queue="q1", processor="p1", source="p1.a", target="p1.b")
    error = refused(flow.delete, "queue", "q1")
    assert (error.code, error.facts["socket"], error.facts["plug"]) == ("E_IN_USE", 2, 1)
    durable = [queue_name(socket) for socket in sockets(engine, flow).values()]

    flow.delete("queue", "q1", cascade=True)

    assert (names(flow, "queue"), names(flow, "socket"), names(flow, "plug")) == (["q2"], [], ["out"])
    assert names(flow, "processor") == ["p1"]
    assert all(refused(broker.depth, name).code == "E_NOT_FOUND" for name in durable)


# processors


def test_a_processor_is_pinned_to_the_commit_its_branch_had(net: Network, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r")
    made = net.add_processor(name="p1", gitrepo=repository.url, module="flow.sample", branch="main", retries=5, cpus=2)
    assert (made["commit"], made["branch"], made["retries"], made["cpus"]) == (repository.commit, "main", 5, 2)
    assert (made["requested_status"], made["status"], made["generation"]) == ("RUNNING", "STOPPED", 1)

    moved = repository.change("sample", SAMPLE + "\n\ndef more():\n    pass\n")

    assert net.show("processor", "p1")["commit"] == repository.commit
    assert net.update_processor("p1", workers=3)["commit"] == repository.commit
    assert net.update_processor("p1", branch="main")["commit"] == moved
    assert net.update_processor("p1", commit=repository.commit)["commit"] == repository.commit
    assert net.update_processor("p1", module="flow.one")["commit"] == repository.commit


@pytest.mark.parametrize(
    ("values", "code", "word"),
    [
        ({"gitrepo": None}, "E_MISSING", "gitrepo"),
        ({"module": ""}, "E_MISSING", "module"),
        ({"name": "-rf"}, "E_NAME", "-rf"),
        ({"cpus": 0}, "E_RANGE", "cpus"),
        ({"gpus": -1}, "E_RANGE", "gpus"),
        ({"cpus": 10**9}, "E_RANGE", "cpus"),
        ({"retries": -1}, "E_RANGE", "retries"),
        ({"requested_status": "RUNING"}, "E_CHOICE", "RUNNING"),
        ({"gitrepo": "https://elsewhere.example/r"}, "E_REPO_DENIED", "elsewhere.example"),
        ({"gitrepo": "ext::sh -c id"}, "E_REPO_SCHEME", "ext"),
        ({"module": "os"}, "E_MODULE", "os"),
        ({"commit": "abc123"}, "E_COMMIT", "abc123"),
        ({"branch": "nowhere"}, "E_COMMIT", "main"),
        ({"commit": "0" * 40}, "E_COMMIT_UNAVAILABLE", "0000"),
        ({"default_task": "do_smething"}, "E_TASK_NOT_FOUND", "do_something, do_this"),
        ({"colour": "red"}, "E_USAGE", "colour"),
    ],
)
def test_a_bad_processor_is_refused_and_nothing_is_made(
    net: Network, repository: Repository, values: dict[str, Any], code: str, word: str
) -> None:
    usual, before = {"name": "p1", "gitrepo": repository.url, "module": "flow.sample"}, net.list("event")
    error = refused(net.add_processor, **(usual | values))
    assert error.code == code
    assert word in str(error)
    assert (net.list("processor"), net.list("event")) == ([], before)


def test_a_repository_is_judged_again_when_a_processor_is_moved(make: Make, repository: Repository) -> None:
    net = make()
    net.add_processor(name="p1", gitrepo=repository.url, module="flow.sample")
    strict = make(name=net.name, rules=Allow())
    assert refused(strict.update_processor, "p1", branch="main").code == "E_REPO_DENIED"


def test_a_new_commit_must_have_the_tasks_of_the_sockets(net: Network, tmp_path: Path, engine: Engine) -> None:
    repository = Repository(tmp_path / "r")
    net.add_queue(name="q1")
    net.add_processor(name="p1", gitrepo=repository.url, module="flow.sample")
    net.add_socket(name="s1", queue="q1", processor="p1", task="do_this")
    before = sockets(engine, net)["s1"]

    repository.change("sample", "def do_something(x):\n    return x\n")
    error = refused(net.update_processor, "p1", branch="main")
    assert (error.code, error.facts["tasks"]) == ("E_TASK_NOT_FOUND", ["do_something"])
    assert net.show("processor", "p1")["commit"] == repository.commit

    repository.change("sample", "def do_this(other, z):\n    return other\n")
    net.update_processor("p1", branch="main")
    after = sockets(engine, net)["s1"]
    assert after.signature is not None
    assert [parameter["name"] for parameter in after.signature["parameters"]] == ["other", "z"]
    # the commit is not part of the key: calls that wait are run by the new one
    assert (after.key, after.generation) == (before.key, before.generation)


def test_an_old_generation_is_stale(flow: Network) -> None:
    seen = flow.show("processor", "p1")["generation"]
    assert flow.update_processor("p1", workers=2, generation=seen)["generation"] == seen + 1
    for change in (
        lambda: flow.update_processor("p1", workers=3, generation=seen),
        lambda: flow.stop("p1", generation=seen),
        lambda: flow.delete("processor", "p1", generation=seen),
    ):
        assert refused(change).code == "E_STALE"
    assert flow.show("processor", "p1")["workers"] == 2


def test_of_changes_at_once_that_saw_the_same_only_one_is_made(flow: Network) -> None:
    seen = flow.show("processor", "p1")["generation"]

    def change(workers: int) -> str:
        try:
            flow.update_processor("p1", workers=workers, generation=seen)
        except BadInput as error:
            return error.code
        return "changed"

    def add(_: int) -> str:
        try:
            flow.add_queue(name="q2")
        except BadInput as error:
            return error.code
        return "added"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(change, (2, 3, 4, 5))) == ["E_STALE"] * 3 + ["changed"]
        assert sorted(pool.map(add, range(4))) == ["E_EXISTS"] * 3 + ["added"]
    assert flow.show("processor", "p1")["generation"] == seen + 1


def test_verbs_change_what_is_wanted_and_are_on_record(flow: Network) -> None:
    assert flow.pause("p1")["requested_status"] == "PAUSED"
    assert flow.resume("p1")["requested_status"] == "RUNNING"
    assert refused(flow.resume, "p1").code == "E_BAD_TRANSITION"
    assert flow.stop("p1")["requested_status"] == "STOPPED"
    assert refused(flow.pause, "p1").code == "E_BAD_TRANSITION"
    assert flow.start("p1")["requested_status"] == "RUNNING"
    assert flow.restart("p1")["restarts"] == 1
    told = [row["what"] for row in flow.list("event") if row["name"] == "p1"]
    assert told[:2] == ["asked to restart", "asked to be RUNNING"]


# sockets


def test_a_socket_declares_its_queue_and_records_its_task(flow: Network, engine: Engine, broker: Broker) -> None:
    found = sockets(engine, flow)
    first, second = found["p1.a"], found["p1.b"]
    assert first.declared
    assert (first.task, first.processor, first.exchange) == ("do_something", "p1", f"q.{flow.name}.q1")
    assert first.key != second.key
    assert broker.depth(queue_name(first)).ready == 0
    assert first.signature is not None
    assert first.signature["parameters"] == [
        {"name": "x", "kind": "positional_or_keyword", "has_default": False},
        {"name": "y", "kind": "keyword_only", "has_default": True},
    ]
    assert flow.show("socket", "p1.a")["source"].startswith("def do_something")


def test_a_task_that_is_not_at_the_pinned_commit_is_said_to_be_newer_perhaps(flow: Network) -> None:
    error = refused(flow.add_socket, name="p1.new", queue="q1", processor="p1", task="written_since")
    assert error.code == "E_TASK_NOT_FOUND"
    assert f"pinned at {flow.show('processor', 'p1')['commit'][:12]}" in (error.cure or "")
    assert "pyfi update processor p1 -br" in (error.cure or "")


def test_two_processors_with_the_same_task_share_a_queue(flow: Network, repository: Repository, engine: Engine) -> None:
    flow.add_processor(name="p2", gitrepo=repository.url, module="flow.sample")
    flow.add_socket(name="p2.a", queue="q1", processor="p2", task="do_something")
    found = sockets(engine, flow)
    assert queue_name(found["p1.a"]) == queue_name(found["p2.a"])


def test_an_outlet_takes_the_processors_own_task_or_the_only_one(net: Network, repository: Repository) -> None:
    net.add_queue(name="q1")
    for name, module, task in (("p1", "flow.sample", "do_this"), ("p2", "flow.one", None), ("p3", "flow.sample", None)):
        net.add_processor(name=name, gitrepo=repository.url, module=module, default_task=task)
    assert net.add_socket(name="o1", queue="q1", processor="p1")["task"] == "do_this"
    assert net.add_socket(name="o2", queue="q1", processor="p2")["task"] == "only"
    error = refused(net.add_socket, name="o3", queue="q1", processor="p3")
    assert error.code == "E_MISSING"
    assert "do_something, do_this" in error.what


@pytest.mark.parametrize(
    ("values", "code", "word"),
    [
        ({"processor": "p2"}, "E_NOT_FOUND", "did you mean 'p1'?"),
        ({"processor": uuid.UUID(int=1)}, "E_NOT_FOUND", "processor"),
        ({"queue": "q7"}, "E_NOT_FOUND", "did you mean 'q1'?"),
        ({"task": "nothing"}, "E_TASK_NOT_FOUND", "do_something, do_this"),
        ({"timeout_seconds": 0}, "E_RANGE", "timeout_seconds"),
        ({"name": "p1.a"}, "E_EXISTS", "p1.a"),
    ],
)
def test_a_bad_socket_is_refused_and_nothing_is_made(
    flow: Network, values: dict[str, Any], code: str, word: str
) -> None:
    usual = {"name": "new", "queue": "q1", "processor": "p1", "task": "do_this"}
    error = refused(flow.add_socket, **(usual | values))
    assert error.code == code
    assert word in str(error)
    assert names(flow, "socket") == ["p1.a", "p1.b"]


class Away:
    """The embedded broker while it cannot be reached."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def declare(self, queue: TaskQueue) -> None:
        raise BrokerUnavailable("E_BROKER", "nobody listens")

    def depth(self, queue: str) -> Depth:
        raise BrokerUnavailable("E_BROKER", "nobody listens")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)


def test_a_socket_added_while_the_broker_is_away_is_declared_later(
    make: Make, repository: Repository, engine: Engine, broker: Broker
) -> None:
    told: list[str] = []
    net = make(broker=lambda: Away(broker), note=told.append)
    net.add_queue(name="q1")
    net.add_processor(name="p1", gitrepo=repository.url, module="flow.sample")
    net.add_socket(name="s1", queue="q1", processor="p1", task="do_this")
    assert not sockets(engine, net)["s1"].declared
    assert "nobody listens" in told[0]
    with pytest.raises(BrokerUnavailable):
        net.ensure_declared("s1")

    make(name=net.name).ensure_declared("s1")

    found = sockets(engine, net)["s1"]
    assert found.declared
    assert broker.depth(queue_name(found)).ready == 0
    # nobody knows what waits there now: it must not be deleted
    with pytest.raises(BrokerUnavailable):
        net.delete("socket", "s1")
    assert names(net, "socket") == ["s1"]


def test_a_socket_with_queued_calls_is_neither_deleted_nor_given_another_task(
    flow: Network, engine: Engine, broker: Broker
) -> None:
    socket = sockets(engine, flow)["p1.a"]
    send(broker, socket)
    hold(engine, socket, "DUE")
    for call in (
        lambda: flow.delete("socket", "p1.a"),
        lambda: flow.update_socket("p1.a", task="do_this"),
        lambda: flow.delete("processor", "p1", cascade=True),
        lambda: flow.delete("queue", "q1", cascade=True),
        lambda: flow.remove("p1"),
    ):
        error = refused(call)
        assert (error.code, error.facts["queued message"]) == ("E_IN_USE", 2)
    assert sockets(engine, flow)["p1.a"] == socket


def test_a_queue_made_anew_never_has_the_name_of_the_old_one(flow: Network, engine: Engine) -> None:
    before = sockets(engine, flow)["p1.a"]
    flow.delete("socket", "p1.a")
    flow.add_socket(name="p1.a", queue="q1", processor="p1", task="do_something")
    after = sockets(engine, flow)["p1.a"]
    assert (after.exchange, after.key) == (before.exchange, before.key)
    assert after.generation > before.generation


def test_a_call_that_came_while_its_socket_was_deleted_is_cancelled_on_record(
    make: Make, flow: Network, engine: Engine, broker: Broker
) -> None:
    socket = sockets(engine, flow)["p1.a"]
    calls: list[bytes] = []

    class Late(Away):
        """A client sends one more call right after the queue was seen to be empty."""

        def depth(self, queue: str) -> Depth:
            seen = self._broker.depth(queue)
            if not calls:
                calls.append(send(self._broker, socket))
            return seen

    make(name=flow.name, broker=lambda: Late(broker)).delete("socket", "p1.a")

    assert [outcome(engine, call) for call in calls] == ["CANCELLED"]
    assert refused(broker.depth, queue_name(socket)).code == "E_NOT_FOUND"


@pytest.mark.slow
def test_on_rabbitmq_a_socket_goes_once_agents_have_left_its_queue(
    make: Make, repository: Repository, engine: Engine, rabbitmq: RabbitMQ
) -> None:
    rabbit = RabbitBroker(rabbitmq.uri, settle_seconds=0.0)
    net = make(broker=lambda: rabbit)
    net.add_queue(name="q1")
    net.add_processor(name="p1", gitrepo=repository.url, module="flow.sample")
    net.add_socket(name="s1", queue="q1", processor="p1", task="do_this")
    socket = sockets(engine, net)["s1"]
    call = send(rabbit, socket)
    eventually(lambda: rabbit.depth(queue_name(socket)).ready == 1)
    assert refused(net.delete, "socket", "s1").facts["queued message"] == 1
    # an agent has taken it, has not started it, and leaves when it hears that the socket is gone
    inbox = Inbox()
    subscription = rabbit.consume(queue_name(socket), prefetch=1, deliver=inbox)
    inbox.wait(1)
    rabbit.on_hint(net.name, lambda hint: subscription.drop())

    net.delete("socket", "s1")

    assert outcome(engine, call) == "CANCELLED"
    assert refused(rabbit.depth, queue_name(socket)).code == "E_NOT_FOUND"
    rabbit.close()


# plugs and what flows along them


@pytest.fixture
def chain(flow: Network, repository: Repository) -> Network:
    """Besides p1 on q1: p2 and p3 with one socket each on q2 and q3, and a plug p1 → q2."""
    for number in (2, 3):
        flow.add_queue(name=f"q{number}")
        flow.add_processor(name=f"p{number}", gitrepo=repository.url, module="flow.sample")
        flow.add_socket(name=f"p{number}.a", queue=f"q{number}", processor=f"p{number}", task="do_something")
    flow.add_plug(name="p1-q2", queue="q2", processor="p1")
    return flow


def test_a_plug_sends_every_result_of_its_processor(chain: Network, engine: Engine) -> None:
    found, ways = sockets(engine, chain), routes(engine, chain)
    target = found["p2.a"]
    assert set(ways) == {found["p1.a"].id, found["p1.b"].id}
    for (route,) in ways.values():
        assert (route.socket, route.exchange, route.key) == (target.id, target.exchange, target.key)
        assert (route.generation, route.edge) == (target.generation, route.plug + target.key.encode())


def test_a_plug_may_be_sent_by_the_broker_alone(chain: Network, engine: Engine) -> None:
    assert chain.show("plug", "p1-q2")["route"] == "auto"
    made = chain.add_plug(name="p1-q3", queue="q3", processor="p1", route="broker")
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        assert topology.by_broker(cursor, chain.name) == {parse_id(made["id"])}
        chain.update_plug("p1-q3", route="auto")
        chain.update_plug("p1-q2", route="broker")
        cursor.connection.commit()
        assert topology.by_broker(cursor, chain.name) == {parse_id(chain.show("plug", "p1-q2")["id"])}
    assert refused(chain.update_plug, "p1-q2", route="pipe").code == "E_CHOICE"


@pytest.mark.parametrize(
    ("piped", "queued", "expected"),
    [
        (None, None, None),
        (100, None, "pipe"),
        (None, 100, "queue"),
        (100, 95, "mixed"),
        (100, 80, "pipe"),
        (80, 100, "queue"),
    ],
)
def test_the_way_of_a_plug_is_that_of_its_last_results(
    piped: int | None, queued: int | None, expected: str | None
) -> None:
    times = [None if each is None else datetime.datetime.fromtimestamp(each, datetime.UTC) for each in (piped, queued)]
    assert plugs.way(*times) == expected


def test_what_agents_count_of_a_plug_is_no_change_of_it(chain: Network, engine: Engine) -> None:
    before = chain.show("plug", "p1-q2")
    with engine.begin() as connection:
        cursor = connection.connection.cursor()
        keeper.note_ways(cursor, {parse_id(before["id"]): Way(3, 0)})
        keeper.note_ways(cursor, {parse_id(before["id"]): Way(2, 1)})
    after = chain.show("plug", "p1-q2")
    assert (after["piped"], after["queued"], after["way"]) == (5, 1, "mixed")
    assert after["generation"] == before["generation"]


def test_a_plug_from_one_socket_to_one_socket(chain: Network, engine: Engine) -> None:
    chain.add_socket(name="p3.b", queue="q3", processor="p3", task="do_this")
    made = chain.add_plug(name="one", queue="q3", processor="p2", source="p2.a", target="p3.b")
    assert (made["source"], made["target"], made["queue"], made["processor"]) == ("p2.a", "p3.b", "q3", "p2")
    found, ways = sockets(engine, chain), routes(engine, chain)
    assert [route.socket for route in ways[found["p2.a"].id]] == [found["p3.b"].id]
    assert refused(chain.delete, "socket", "p3.b").facts["plug"] == 1


def test_a_plug_to_a_queue_reaches_each_distinct_task_once(
    chain: Network, repository: Repository, engine: Engine
) -> None:
    chain.add_socket(name="p2.b", queue="q2", processor="p2", task="do_this")
    chain.add_processor(name="p4", gitrepo=repository.url, module="flow.sample")
    chain.add_socket(name="p4.a", queue="q2", processor="p4", task="do_something")
    found, ways = sockets(engine, chain), routes(engine, chain)
    assert [route.socket for route in ways[found["p1.a"].id]] == [found["p2.a"].id, found["p2.b"].id]


def test_a_topic_reaches_the_tasks_whose_binding_fits(flow: Network, repository: Repository, engine: Engine) -> None:
    flow.add_queue(name="news", type="topic")
    flow.add_processor(name="p2", gitrepo=repository.url, module="flow.sample")
    flow.add_socket(name="fire", queue="news", processor="p2", task="do_something", binding="alarm.#")
    flow.add_socket(name="calm", queue="news", processor="p2", task="do_this", binding="*.calm")
    for name, key in (("one", "alarm.fire.now"), ("two", "alarm.calm"), ("three", "weather")):
        flow.add_plug(name=name, queue="news", processor="p1", source="p1.a", key=key)
    found = sockets(engine, flow)
    ways = routes(engine, flow)[found["p1.a"].id]
    assert [route.socket for route in ways] == [found["fire"].id, found["fire"].id, found["calm"].id]


def test_a_plug_that_closes_a_loop_is_refused_with_the_way(chain: Network) -> None:
    chain.add_plug(name="p2-q3", queue="q3", processor="p2")
    error = refused(chain.add_plug, name="back", queue="q1", processor="p3")
    assert error.code == "E_CYCLE"
    assert "p1.a → p2.a → p3.a → p1.a" in error.what
    assert refused(chain.add_plug, name="self", queue="q2", processor="p2").code == "E_CYCLE"
    assert refused(chain.update_plug, "p2-q3", queue="q1").code == "E_CYCLE"
    assert names(chain, "plug") == ["p1-q2", "p2-q3"]
    assert chain.show("plug", "p2-q3")["queue"] == "q3"


def test_a_socket_that_closes_a_loop_is_refused(chain: Network) -> None:
    error = refused(chain.add_socket, name="p1.c", queue="q2", processor="p1", task="do_this")
    assert error.code == "E_CYCLE"
    assert names(chain, "socket") == ["p1.a", "p1.b", "p2.a", "p3.a"]


def test_one_processors_task_may_feed_another_of_its_own(flow: Network, engine: Engine) -> None:
    flow.add_plug(name="on", queue="q1", processor="p1", source="p1.a", target="p1.b")
    found = sockets(engine, flow)
    assert [route.socket for route in routes(engine, flow)[found["p1.a"].id]] == [found["p1.b"].id]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"queue": "q9"}, "E_NOT_FOUND"),
        ({"processor": "nobody"}, "E_NOT_FOUND"),
        ({"source": "p2.a"}, "E_ARGUMENT"),
        ({"target": "p1.a"}, "E_ARGUMENT"),
        ({"name": "p1-q2"}, "E_EXISTS"),
        ({"route": "pipe"}, "E_CHOICE"),
    ],
)
def test_a_bad_plug_is_refused(chain: Network, values: dict[str, Any], code: str) -> None:
    assert refused(chain.add_plug, **({"name": "new", "queue": "q3", "processor": "p1"} | values)).code == code
    assert names(chain, "plug") == ["p1-q2"]


# deleting and removing processors


def test_a_processor_is_deleted_with_its_own_ends_and_nothing_else(chain: Network, engine: Engine) -> None:
    error = refused(chain.delete, "processor", "p1")
    assert (error.code, error.facts["socket"], error.facts["plug"]) == ("E_IN_USE", 2, 1)
    chain.delete("processor", "p1", cascade=True)
    assert names(chain, "processor") == ["p2", "p3"]
    assert (names(chain, "socket"), names(chain, "plug")) == (["p2.a", "p3.a"], [])
    assert names(chain, "queue") == ["q1", "q2", "q3"]


def worker(engine: Engine, net: Network, status: str) -> None:
    """A worker of p1, with the node and agent it needs."""
    net.add_node(name="n1", host="localhost")
    with engine.begin() as connection:
        insert = """WITH a AS (INSERT INTO pyfi.agent (node_id, pid, cores, version, lease_until, ended)
                SELECT id, 1, '{0}', '1', now(), now() FROM pyfi.node WHERE id = :node RETURNING id, node_id)
            INSERT INTO pyfi.worker (processor_id, node_id, agent_id, cores, commit, status)
            SELECT p.id, a.node_id, a.id, '{0}', p.commit, CAST(:status AS pyfi.worker_status)
            FROM a, pyfi.processor p WHERE p.id = :processor"""
        ids = {"node": net.show("node", "n1")["id"], "processor": net.show("processor", "p1")["id"]}
        connection.execute(text(insert), {"status": status} | ids)


def test_a_processor_with_a_running_worker_is_kept(flow: Network, engine: Engine) -> None:
    worker(engine, flow, "READY")
    error = refused(flow.delete, "processor", "p1", cascade=True)
    assert (error.code, error.facts["running worker"]) == ("E_IN_USE", 1)
    assert flow.list("worker")[0]["processor"] == "p1"
    assert flow.list("agent")[0]["node"] == "n1"


def test_the_rows_of_ended_workers_go_with_their_processor(flow: Network, engine: Engine) -> None:
    worker(engine, flow, "EXITED")
    flow.delete("processor", "p1", cascade=True)
    assert flow.list("worker") == []
    flow.delete("node", "n1")
    assert flow.list("agent") == []


def test_a_removed_processor_stays_removed_and_frees_its_name(flow: Network, repository: Repository) -> None:
    assert flow.remove("p1")["requested_status"] == "REMOVED"
    assert (flow.list("processor"), flow.list("socket")) == ([], [])
    for verb in (flow.resume, flow.start, flow.restart):
        assert refused(verb, "p1").code == "E_BAD_TRANSITION"
    flow.add_processor(name="p1", gitrepo=repository.url, module="flow.sample")
    assert flow.start("p1")["status"] == "STOPPED"


def test_what_waits_for_a_removed_processor_is_cancelled_only_when_asked(
    flow: Network, engine: Engine, broker: Broker
) -> None:
    socket = sockets(engine, flow)["p1.a"]
    calls = [send(broker, socket), hold(engine, socket, "DUE"), hold(engine, socket, "LEASED")]
    assert refused(flow.remove, "p1").code == "E_IN_USE"
    assert [outcome(engine, call) for call in calls] == [None, None, None]
    assert flow.show("processor", "p1")["requested_status"] == "RUNNING"

    flow.remove("p1", discard=True)

    assert [outcome(engine, call) for call in calls] == ["CANCELLED"] * 3
    assert refused(broker.depth, queue_name(socket)).code == "E_NOT_FOUND"
    assert flow.list("event")[0]["detail"] == {"discarded": 3}


def test_discarding_never_touches_calls_of_a_competing_processor(
    flow: Network, repository: Repository, engine: Engine, broker: Broker
) -> None:
    flow.add_processor(name="p2", gitrepo=repository.url, module="flow.sample")
    flow.add_socket(name="p2.a", queue="q1", processor="p2", task="do_something")
    call = send(broker, sockets(engine, flow)["p2.a"])
    assert refused(flow.remove, "p1", discard=True).code == "E_IN_USE"
    assert outcome(engine, call) is None


def test_discarding_waits_for_what_is_in_an_agents_hands(flow: Network, engine: Engine, broker: Broker) -> None:
    socket = sockets(engine, flow)["p1.a"]
    call = send(broker, socket)
    inbox = Inbox()
    subscription = broker.consume(queue_name(socket), prefetch=1, deliver=inbox)
    inbox.wait(1)
    subscription.cancel()
    giving_back = Timer(0.5, subscription.drop)
    giving_back.start()
    flow.remove("p1", discard=True)
    giving_back.join()
    assert outcome(engine, call) == "CANCELLED"


# nodes, events, hints, find-or-make


def test_a_node_is_added_changed_and_deleted(net: Network) -> None:
    made = net.add_node(name="node1", host="phoenix")
    assert (made["host"], made["status"]) == ("phoenix", "DOWN")
    assert net.update_node("node1", host="radiant")["generation"] == 2
    assert refused(net.add_node, name="node2", host="radiant").code == "E_EXISTS"
    assert refused(net.add_node, name="node2", host="a b").code == "E_NAME"
    net.delete("node", "node1")
    assert net.list("node") == []


def test_each_change_is_on_record_with_its_actor(net: Network) -> None:
    made = net.add_queue(name="q1")
    net.update_queue("q1", max_length=3)
    net.delete("queue", "q1")
    told = [row for row in net.list("event") if row["object"] == made["id"]]
    assert [(row["kind"], row["name"], row["what"], row["actor"]) for row in told] == [
        ("queue", "q1", what, "pyfi") for what in ("deleted", "updated", "added")
    ]


def test_agents_are_told_of_each_change(net: Network, broker: Broker) -> None:
    heard: list[str] = []
    broker.on_hint(net.name, heard.append)
    net.add_queue(name="q0")
    # the listener may have come after the first hint
    numbers = iter(range(1, 1000))
    eventually(lambda: bool(heard) or not net.add_queue(name=f"q{next(numbers)}"))
    assert set(heard) == {"topology"}


def test_find_or_make_takes_what_is_the_same_and_refuses_what_is_not(net: Network, repository: Repository) -> None:
    queue = {"name": "q1"}
    processor = {"name": "p1", "gitrepo": repository.url, "module": "flow.sample", "branch": "main"}
    for _ in range(2):
        net.ensure_queue(**queue)
        made = net.ensure_processor(**processor)
        net.ensure_socket(name="s1", queue="q1", processor=uuid.UUID(made["id"]), task="do_this")
    assert [names(net, kind) for kind in ("queue", "processor", "socket")] == [["q1"], ["p1"], ["s1"]]
    for call, values in (
        (net.ensure_queue, queue | {"type": "topic"}),
        (net.ensure_processor, processor | {"module": "flow.one"}),
        (net.ensure_socket, {"name": "s1", "queue": "q1", "processor": "p1", "task": "do_something"}),
    ):
        assert refused(call, **values).code == "E_EXISTS"
    net.stop("p1")
    assert net.ensure_processor(**processor)["requested_status"] == "STOPPED"


def test_a_branch_is_no_difference_where_it_leads_to_the_same_commit(net: Network, tmp_path: Path) -> None:
    url, commit = make_repository(tmp_path / "told", {"flow.py": "def one(x):\n    return x\n"})
    git(tmp_path / "told", "branch", "same")
    net.add_processor(name="plain", gitrepo=url, module="flow")
    net.add_processor(name="told", gitrepo=url, module="flow", branch="main")
    assert net.ensure_processor(name="plain", gitrepo=url, module="flow", branch="main")["commit"] == commit
    assert net.ensure_processor(name="told", gitrepo=url, module="flow", branch="same")["branch"] == "main"
    git(tmp_path / "told", "checkout", "-q", "same")
    commit_files(tmp_path / "told", {"more.py": ""})
    assert refused(net.ensure_processor, name="told", branch="same").code == "E_EXISTS"
    assert net.ensure_processor(name="told", branch="main")["commit"] == commit


def test_objects_of_another_network_are_not_seen(flow: Network, make: Make) -> None:
    other = make()
    assert refused(other.show, "queue", "q1").code == "E_NOT_FOUND"
    assert refused(other.show, "queue", uuid.UUID(flow.show("queue", "q1")["id"])).code == "E_NOT_FOUND"
    assert other.list("socket") == []


# pilots, jobs and schedulers


def test_asking_a_processor_to_run_notes_when(flow: Network) -> None:
    asked = [flow.show("processor", "p1")["wanted_since"]]
    for ask in (flow.start, flow.restart, lambda which: flow.update_processor(which, requested_status="RUNNING")):
        asked.append(ask("p1")["wanted_since"])
    flow.pause("p1")
    flow.stop("p1")
    assert flow.show("processor", "p1")["wanted_since"] == asked[-1]
    assert asked == sorted(set(asked))


def test_a_processor_keeps_the_shape_of_its_pilots_and_what_is_not_said_of_it_stays(
    net: Network, repository: Repository
) -> None:
    given = {"partition": "main", "ntasks": 8}
    made = net.add_processor(name="p", gitrepo=repository.url, module="flow.sample", shape=given)
    assert made["shape"] == given
    assert net.update_processor("p", shape={"time_minutes": 10})["shape"] == given | {"time_minutes": 10}
    assert net.update_processor("p", workers=2)["shape"] == given | {"time_minutes": 10}


def _job(engine: Engine, net: Network, **columns: str) -> str:
    """A job of scheduler sched1 on record; its token."""
    token = uuid.uuid4().hex
    given = {"token": token, "request": "{}", "workers": "4", **columns}
    names, marks = ", ".join(given), ", ".join(f"CAST(:{name} AS {_TYPES.get(name, 'text')})" for name in given)
    insert = f"""INSERT INTO pyfi.job (network_id, scheduler_id, {names})
        SELECT n.id, s.id, {marks} FROM pyfi.network n JOIN pyfi.scheduler s ON s.network_id = n.id
        WHERE n.name = :network"""
    with engine.begin() as connection:
        connection.execute(text(insert), given | {"network": net.name})
    return token


_TYPES = {"request": "jsonb", "workers": "integer", "status": "pyfi.job_status"}


def test_a_job_is_found_by_slurms_id_by_ours_and_by_its_token(net: Network, engine: Engine) -> None:
    net.add_scheduler(name="sched1")
    token = _job(engine, net, slurm_id="88121", status="PENDING", slurm_state="PENDING", slurm_reason="Priority")
    found = net.show("job", "88121")
    assert (found["token"], found["scheduler"], found["status"]) == (token, "sched1", "PENDING")
    assert found["why"].startswith("Priority: other jobs come first")
    assert net.show("job", token) == net.show("job", found["id"]) == net.show("job", "88121_3") == found
    assert [job["job"] for job in net.list("job")] == ["88121"]
    assert refused(net.show, "job", "88122").code == "E_NOT_FOUND"


@pytest.mark.parametrize("word", ["6f3a9c01de", "881210", "proc1", "", "88121_"])
def test_a_word_that_is_no_job_of_ours_is_none(net: Network, engine: Engine, word: str) -> None:
    net.add_scheduler(name="sched1")
    _job(engine, net, slurm_id="88121")
    assert net.find_job(word) is None


def test_of_two_jobs_with_one_number_the_newer_is_meant(net: Network, engine: Engine) -> None:
    net.add_scheduler(name="sched1")
    _job(engine, net, slurm_id="7", status="ENDED")
    newer = _job(engine, net, slurm_id="7", status="PENDING")
    assert net.show("job", "7")["token"] == newer


def test_a_job_is_asked_to_end_once(net: Network, engine: Engine) -> None:
    net.add_scheduler(name="sched1")
    _job(engine, net, slurm_id="7", status="PENDING")
    _job(engine, net, slurm_id="8", status="ENDED")
    assert (net.cancel_job("7")["cancelled"], net.show("job", "7")["cancel_requested"]) == (True, True)
    assert net.cancel_job("7")["cancelled"] is False
    assert net.cancel_job("8")["cancelled"] is False
    error = refused(net.cancel_job, "7_1")
    assert (error.code, error.cure) == ("E_USAGE", "scancel 7_1, or pyfi cancel 7")


def test_a_scheduler_with_live_jobs_stays_and_takes_its_ended_ones_along(net: Network, engine: Engine) -> None:
    net.add_scheduler(name="sched1")
    token = _job(engine, net, slurm_id="7", status="RUNNING")
    error = refused(net.delete, "scheduler", "sched1", cascade=True)
    assert (error.code, error.facts["live job"]) == ("E_IN_USE", 1)
    with engine.begin() as connection:
        connection.execute(text("UPDATE pyfi.job SET status = 'ENDED' WHERE token = :token"), {"token": token})
    net.delete("scheduler", "sched1")
    assert (names(net, "scheduler"), net.list("job")) == ([], [])
