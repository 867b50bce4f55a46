"""One message to every task that is bound to a queue."""

from __future__ import annotations

import json
import uuid

import pytest
from click.testing import CliRunner

from pyfi_hpc.cli.main import pyfi
from pyfi_hpc.errors import BadInput, PyfiError
from pyfi_hpc.wire.ids import child_id, id_text
from tests.faults.test_overflow import impatient
from tests.site import Site


def news(site: Site, type_: str = "fanout") -> str:
    """A queue to which two processors are bound, with `double` both and `follow` one of them."""
    network, queue = site.client.network, f"{site.queue}.news"
    network.add_queue(name=queue, type=type_)
    for name in ("p", "r"):
        site.processor(name=name, workers=1)
        network.add_socket(name=f"{name}.double", queue=queue, processor=name, task="double", binding="sports.#")
    network.add_socket(name="p.follow", queue=queue, processor="p", task="follow")
    return queue


def test_each_task_is_called_once_under_an_id_of_its_own(site: Site) -> None:
    queue = news(site)
    sent = site.client.publish(queue, 20)
    site.accepted += [future.id for future in sent.values()]
    site.agent()

    # both processors have the task, and share its queue
    assert sent.result(timeout=60) == {"p.double": 40, "p.follow": 21}
    keys = dict(site.rows("SELECT name, task_key FROM pyfi.socket"))
    assert {name: future.id for name, future in sent.items()} == {
        name: id_text(child_id(sent.identity, keys[name].encode())) for name in ("p.double", "p.follow")
    }
    site.quiet()

    again = site.client.publish(queue, 20, id=sent.id)
    assert again.result(timeout=60) == sent.result()
    with pytest.raises(BadInput) as other:
        site.client.publish(queue, 21, id=sent.id)
    assert other.value.code == "E_ID_CONFLICT"
    words = ["call", "--queue", queue, "20", "--id", sent.id]
    typed = CliRunner().invoke(pyfi, words, env=site.environment)
    assert (typed.exit_code, typed.stdout) == (0, "p.double\t40\np.follow\t21\n"), typed.output
    listed = CliRunner().invoke(pyfi, [*words, "-o", "json"], env=site.environment)
    assert [item["value"] for item in json.loads(listed.stdout)["items"]] == [40, 21]
    assert len(site.outcomes()) == 2
    site.quiet()


@pytest.mark.parametrize("broker_uri", ["postgres"], indirect=True)
def test_a_topic_queue_reaches_those_whose_binding_fits(site: Site) -> None:
    queue = news(site, "topic")
    site.agent()

    sports = site.client.publish(queue, 1, key="sports.rowing")
    weather = site.client.publish(queue, 1, key="weather", priority="low")

    assert sports.result(timeout=60) == {"p.double": 2, "p.follow": 2}
    assert weather.result(timeout=60) == {"p.follow": 2}
    site.accepted += [future.id for future in (*sports.values(), *weather.values())]
    site.quiet()


@pytest.mark.parametrize("broker_uri", ["postgres"], indirect=True)
def test_what_one_task_cannot_take_is_sent_to_none(site: Site) -> None:
    queue = news(site)
    site.client.network.add_socket(name="p.work", queue=queue, processor="p", task="work")

    with pytest.raises(BadInput, match="log"):
        site.client.publish(queue, 20)
    with pytest.raises(BadInput, match="no task is bound"):
        site.client.publish(site.queue, 20)
    with pytest.raises(BadInput, match="no queue"):
        site.client.publish("nowhere", 20)
    assert site.client.operations.waiting(queue) == 0


@pytest.mark.parametrize("broker_uri", ["rabbitmq"], indirect=True)
def test_what_was_not_accepted_everywhere_is_repeated_under_the_same_ids(site: Site) -> None:
    network, queue = site.client.network, f"{site.queue}.short"
    network.add_queue(name=queue, type="fanout", max_length=1)
    site.processor(workers=1)
    for task in ("double", "follow"):
        network.add_socket(name=f"p.{task}", queue=queue, processor="p", task=task)
    # one of the two is full
    before = [site.client.submit("p.follow", 1)]
    with pytest.raises(PyfiError) as refused, impatient(site, "1") as client:
        for _ in range(5):  # a limit is soft
            before.append(client.submit("p.follow", 1))
    identity = str(uuid.uuid4())
    with pytest.raises(PyfiError) as partly, impatient(site, "1") as client:
        client.publish(queue, 4, id=identity)
    assert (refused.value.code, partly.value.code) == ("E_BACKPRESSURE", "E_NOT_ACCEPTED")
    assert (len(partly.value.facts["ids"]), partly.value.facts["id"]) == (1, identity)
    assert "each call has one outcome" in str(partly.value)

    site.agent()
    sent = site.client.publish(queue, 4, id=identity)

    assert sent.result(timeout=60) == {"p.double": 8, "p.follow": 5}
    site.accepted += [future.id for future in (*before, *sent.values())]
    site.quiet()
