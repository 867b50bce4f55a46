"""Pipes over TCP: who is let in, what is said of those who are not, and what a listener on the wire can read."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from pyfi_hpc.agent.pipes import addresses
from pyfi_hpc.model.request import ResourceRequest
from pyfi_hpc.pipes import curve, sockets
from pyfi_hpc.pipes.curve import Door, Keys
from pyfi_hpc.pipes.protocol import Bye, Data, Hello, Passed, Prove, Welcome, pack, read_from_receiver
from pyfi_hpc.pipes.sockets import FarInlet, Pipe
from pyfi_hpc.wire.frames import Far, first_token
from tests.support import eventually

GUEST = 7
TOKEN = first_token(GUEST)
HERE = "127.0.0.1"
SOCKET = b"s" * 16
PATIENCE = 60.0


def call(value: bytes, token: int = TOKEN, number: int = 0) -> Passed:
    return Passed(token, number, 1, number.to_bytes(16, "big"), value)


class Ends:
    """A worker's inlet, and pipes into it; each has a context of its own."""

    def __init__(self) -> None:
        self.keys, self.guest = curve.fresh(), curve.fresh()
        self._contexts = [sockets.context(), sockets.context()]
        self.inlet = FarInlet(self._contexts[0], HERE, self.keys)
        self.inlet.admit([(self.guest.public, GUEST)])
        self.pipes: list[Pipe] = []
        self.came: list[Passed] = []
        self.now = 0.0

    def pipe(self, keys: Keys | None = None, server: bytes | None = None, endpoint: str = "") -> Pipe:
        made = Pipe(self._contexts[1], endpoint or self.inlet.endpoint, b"x", keys or self.guest,
                    server or self.keys.public)  # fmt: skip
        self.pipes.append(made)
        return made

    def line(self, keys: Keys | None = None) -> Any:
        """A connection that says what the test says."""
        made = self._contexts[1].socket(zmq.DEALER)
        made.setsockopt(zmq.LINGER, 0)
        if keys is not None:
            curve.identify(made, keys, self.keys.public)
        made.connect(self.inlet.endpoint)
        return made

    def turn(self) -> None:
        self.now += 0.01
        for pipe in self.pipes:
            pipe.turn(self.now)
        for bunch in self.inlet.hear():
            for each in bunch.calls:
                self.came.append(each)
                bunch.origin.finished(each)
        self.inlet.credit(small=True)

    def until(self, look: Callable[[], Any]) -> Any:
        def found() -> Any:
            self.turn()
            return look()

        return eventually(found, timeout=PATIENCE, interval=0.002)

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close(self.now)
        self.inlet.close()
        for context in self._contexts:
            context.destroy(linger=0)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def test_a_guest_is_let_in_and_its_values_arrive_by_no_memory_of_this_machine(ends: Ends) -> None:
    pipe = ends.pipe()
    ends.until(lambda: pipe.sending.welcome)
    assert pipe.place((bytes(100_000),), 0) is None
    pipe.sending.add(SOCKET, "task", call(b"value"), 5)
    pipe.send(ends.now)
    ends.until(lambda: [each.args for each in ends.came] == [b"value"])
    assert ends.inlet.refused() == []


def test_who_has_another_key_or_none_is_not_let_in_and_told_of_with_the_address(ends: Ends) -> None:
    wrong, good = ends.pipe(curve.fresh()), ends.pipe()
    plain = ends.line()
    seen: dict[str, str] = {}

    def told() -> bool:
        seen.update({why: peer for peer, why in ends.inlet.refused()})
        return len(seen) == 2

    ends.until(told)
    ends.until(lambda: good.sending.welcome)
    assert seen["its key is not on the list"] == HERE
    assert not wrong.sending.welcome and ends.came == []
    plain.close()


def test_one_who_takes_us_for_another_says_nothing(ends: Ends) -> None:
    pipe = ends.pipe(server=curve.fresh().public)
    ends.until(lambda: ends.inlet.refused())
    assert not pipe.sending.welcome


def test_a_guest_that_is_none_any_more_is_put_out_and_does_not_come_in_again(ends: Ends) -> None:
    line = ends.line(ends.guest)
    line.send(pack(Hello(1, b"n" * 32, os.getpid())))
    ends.until(lambda: line.poll(0))
    welcome = read_from_receiver(line.recv())
    assert isinstance(welcome, Welcome) and not welcome.shares

    ends.inlet.admit([])

    ends.until(lambda: line.poll(0))
    answer = read_from_receiver(line.recv())
    assert isinstance(answer, Bye) and answer.code == "E_DENIED"
    line.send(pack(Prove(b"p" * 32)))
    ends.until(lambda: line.poll(0))
    line.close()
    late = ends.pipe()
    ends.until(lambda: [why for _, why in ends.inlet.refused() if "list" in why])
    assert not late.sending.welcome


def test_a_guest_cannot_send_a_call_that_another_agent_counts(ends: Ends) -> None:
    pipe = ends.pipe()
    ends.until(lambda: pipe.sending.welcome)
    pipe.sending.add(SOCKET, "task", call(b"value", first_token(GUEST + 1)), 5)
    pipe.send(ends.now)
    ends.until(lambda: pipe.lost)
    assert ends.came == []


def test_without_anybody_at_the_door_nobody_comes_in() -> None:
    keys, context = curve.fresh(), sockets.context()
    try:
        door = Door(context)
        listener = context.socket(zmq.ROUTER)
        listener.setsockopt(zmq.HANDSHAKE_IVL, 300)
        endpoint = door.guard(listener, keys, HERE)
        door._asked.close(0)
        line = context.socket(zmq.DEALER)
        curve.identify(line, curve.fresh(), keys.public)
        watched: Any = line.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        line.connect(endpoint)
        assert watched.poll(int(PATIENCE * 1000))
        event, _ = watched.recv_multipart()
        assert int.from_bytes(event[:2], "little") == zmq.EVENT_DISCONNECTED
    finally:
        context.destroy(linger=0)


def test_one_whom_nobody_knows_yet_waits_at_the_door_until_it_is_on_the_list() -> None:
    keys, guest, context, other = curve.fresh(), curve.fresh(), sockets.context(), sockets.context()
    try:
        door = Door(context, waits_seconds=PATIENCE)
        listener = context.socket(zmq.ROUTER)
        endpoint = door.guard(listener, keys, HERE)
        line = other.socket(zmq.DEALER)
        line.setsockopt(zmq.IMMEDIATE, 1)
        curve.identify(line, guest, keys.public)
        line.connect(endpoint)

        def waits() -> bool:
            door.answer()
            return door.waiting

        eventually(waits, timeout=PATIENCE)
        assert not int(line.getsockopt(zmq.EVENTS)) & int(zmq.POLLOUT)
        door.admit({guest.public: "7"})
        eventually(lambda: int(line.getsockopt(zmq.EVENTS)) & int(zmq.POLLOUT), timeout=PATIENCE)
        assert door.refused == [] and not door.waiting
    finally:
        for each in (context, other):
            each.destroy(linger=0)


class Listener:
    """Carries a connection on, and keeps all that goes over it."""

    def __init__(self, endpoint: str) -> None:
        self._there = (HERE, int(endpoint.rpartition(":")[2]))
        self._line = socket.create_server((HERE, 0))
        self.endpoint = f"tcp://{HERE}:{self._line.getsockname()[1]}"
        self.heard = bytearray()
        threading.Thread(target=self._carry, daemon=True).start()

    def _carry(self) -> None:
        near, _ = self._line.accept()
        far = socket.create_connection(self._there)
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(65_536):
            self.heard += data
            target.sendall(data)
        target.close()


def test_who_listens_on_the_wire_can_read_nothing(ends: Ends) -> None:
    listener = Listener(ends.inlet.endpoint)
    pipe = ends.pipe(endpoint=listener.endpoint)
    ends.until(lambda: pipe.sending.welcome)
    for number in range(50):
        pipe.sending.add(SOCKET, "a-telling-name", call(b"a telling value" * 100, number=number), 1500)
    pipe.send(ends.now)
    ends.until(lambda: len(ends.came) == 50)
    heard = bytes(listener.heard)
    assert len(heard) > 50 * 1500 and b"CURVE" in heard
    for secret in (b"telling", SOCKET, ends.guest.secret, ends.keys.secret):
        assert secret not in heard


def test_keys_are_not_shown() -> None:
    keys = curve.fresh()
    told = Far(GUEST, keys.public, keys.secret, HERE, ())
    assert keys.secret.decode() not in f"{keys} {keys!r} {told} {told!r}"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "n1", "*", ""])
def test_a_name_or_every_address_of_the_node_is_not_listened_at(address: str) -> None:
    with pytest.raises(ValueError, match=r"address"):
        curve.endpoint(address)


def test_an_address_of_the_node_is_written_as_zeromq_wants_it() -> None:
    assert (curve.endpoint("10.0.0.1"), curve.endpoint("fd00::1", 4)) == ("tcp://10.0.0.1:*", "tcp://[fd00::1]:4")


# by which address others see this node


def test_the_address_is_that_in_the_network_that_was_named() -> None:
    assert addresses.own_address("anything", "", "127.0.0.0/8") == "127.0.0.1"
    assert addresses.own_address("anything", "", "203.0.113.0/24") is None


def test_an_address_that_only_this_machine_knows_is_not_given_to_others() -> None:
    assert addresses.own_address("localhost", "postgresql://u@127.0.0.1:5432/d", "") is None


@pytest.mark.parametrize(("told", "asked", "several"), [("2", 1, True), ("1", 2, False), ("", 2, True), ("", 1, False)])
def test_whether_a_job_has_several_nodes_is_slurms_word_and_else_what_was_asked(
    monkeypatch: pytest.MonkeyPatch, told: str, asked: int, several: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", told)
    assert addresses.several_nodes(ResourceRequest(nodes=asked)) is several


def test_data_from_one_who_was_not_welcomed_is_refused(ends: Ends) -> None:
    line = ends.line(ends.guest)
    line.send(pack(Data(1, SOCKET, "task", (call(b"v"),))))
    ends.until(lambda: line.poll(0))
    answer = read_from_receiver(line.recv())
    assert isinstance(answer, Bye) and answer.code == "E_PIPE_PROTOCOL"
    line.close()
    assert ends.came == []
