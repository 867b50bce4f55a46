"""Publishing to the dead letters of a network that may have none yet."""

from __future__ import annotations

import threading

from pyfi_hpc.brokers.base import Confirm, Publication
from pyfi_hpc.brokers.rabbitmq.admin import Admin
from pyfi_hpc.brokers.rabbitmq.publisher import Publisher
from pyfi_hpc.errors import PyfiError


class SettingAside:
    """One letter on its way: where no dead queue takes it, the queue is made and the letter is sent once more."""

    def __init__(self, publisher: Publisher, admin: Admin, network: str) -> None:
        self._publisher, self._admin, self._network = publisher, admin, network
        self._confirm = Confirm()

    def start(self, letter: Publication) -> Confirm:
        """Send it; the confirm cannot be cancelled."""
        self._confirm.set_running_or_notify_cancel()
        self._publisher.publish([letter])[0].add_done_callback(lambda first: self._after_the_first_try(first, letter))
        return self._confirm

    def _after_the_first_try(self, first: Confirm, letter: Publication) -> None:
        error = first.exception()
        if isinstance(error, PyfiError) and error.code == "E_UNKNOWN_SOCKET":
            # not on the link's thread, which must go on meanwhile
            threading.Thread(target=self._make_and_repeat, args=[letter], name="pyfi-dead-letters", daemon=True).start()
        else:
            self._resolve(error)

    def _make_and_repeat(self, letter: Publication) -> None:
        try:
            self._admin.declare_dead_letters(self._network)
        except PyfiError as error:
            self._resolve(error)
        else:
            self._publisher.publish([letter])[0].add_done_callback(lambda again: self._resolve(again.exception()))

    def _resolve(self, error: BaseException | None) -> None:
        if error is None:
            self._confirm.set_result(None)
        else:
            self._confirm.set_exception(error)
