"""What of an agent's environment its workers get, and which Python."""

from __future__ import annotations

import sysconfig

import pytest

from pyfi_hpc.agent.process import environment
from pyfi_hpc.envs.build import find_interpreter


def test_a_worker_gets_what_the_set_up_of_a_pilot_exported_and_no_setting_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYFI_SETUP", "DATA OMP_NUM_THREADS PYFI_DATABASE_URI PYTHONPATH PWD GONE CUDA_VISIBLE_DEVICES")
    for name, value in {"DATA": "/data", "OMP_NUM_THREADS": "4", "OTHER": "x", "PYTHONPATH": "/m"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYFI_DATABASE_URI", "postgresql://ana:secret@db/pyfi")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    found = environment([0], {"CUDA_VISIBLE_DEVICES": "GPU-a"})
    assert (found["DATA"], found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("/data", "4", "1")
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert not {"OTHER", "PYTHONPATH", "PWD", "GONE", "PYFI_DATABASE_URI", "PYFI_SETUP"} & set(found)


def test_without_a_set_up_a_worker_has_a_thread_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYFI_SETUP", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert environment([0, 1], {})["OMP_NUM_THREADS"] == "2"


def test_the_own_interpreter_is_known_before_two_builds_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = sysconfig.get_config_var("SOABI")
    # as to a thread that asks while another one asks for the first time
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: None)
    assert find_interpreter(None).abi == wanted
