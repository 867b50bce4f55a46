"""Environments built by the real uv from real repositories, hostile ones among them."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyfi_hpc.envs.build import Environment, EnvironmentCache, EnvironmentSpec
from pyfi_hpc.errors import BadInput
from tests.support_git import commit_files, make_repository

SAMPLE = Path(__file__).parents[2] / "examples" / "sample"
BACKEND_SETTINGS = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
# a build backend in the repository itself, so that no index is asked; `ACTION` runs within the build
BACKEND = """
import os, sys, time, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    {action}
    with zipfile.ZipFile(os.path.join(folder, "built-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("built.py", "def answer(): return 42\\n")
        wheel.writestr("built-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: built\\nVersion: 1\\n")
        wheel.writestr("built-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("built-1.dist-info/RECORD", "built.py,,\\n")
    return "built-1-py3-none-any.whl"
"""


@pytest.fixture
def cache(tmp_path: Path) -> EnvironmentCache:
    return EnvironmentCache(tmp_path / "cache", time_limit=60)


def of_files(path: Path, files: dict[str, str]) -> EnvironmentSpec:
    url, commit = make_repository(path, files)
    return EnvironmentSpec(url, commit)


def of_build(path: Path, action: str) -> EnvironmentSpec:
    return of_files(path, {"pyproject.toml": BACKEND_SETTINGS, "backend.py": BACKEND.format(action=action)})


def answer(environment: Environment, code: str) -> str:
    command = [str(environment.python), "-c", code]
    return subprocess.run(command, cwd="/", check=True, capture_output=True, text=True).stdout.strip()


def eventually(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def visible(cache: EnvironmentCache) -> list[str]:
    """What there is besides locks."""
    return [path.name for path in cache.cache.glob("envs/*") if not path.name.endswith(".lock")]


def test_plain_files_need_no_index_and_see_only_the_workers_part_of_ours(
    cache: EnvironmentCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    spec = of_files(
        tmp_path / "plain", {"tasks.py": "def f(): ...\n", "src/deep/er.py": "", "pyproject.toml": "[tool.x]"}
    )
    environment = cache.ensure(spec)
    assert answer(environment, "import tasks, deep.er, msgspec, zmq; print(zmq.zmq_version_info() > (4,))") == "True"
    assert answer(environment, "import pyfi_hpc.errors as e; print(e.__file__)").startswith(str(cache.cache / "runner"))
    found = "from importlib.util import find_spec as f; print(f('pyfi_hpc.envs'), f('numpy'), f('sqlalchemy'))"
    assert answer(environment, found) == "None None None"
    assert cache.ensure(spec) == environment


def test_the_sample_is_installed_and_its_tasks_answer(cache: EnvironmentCache, tmp_path: Path) -> None:
    files = {str(path.relative_to(SAMPLE)): path.read_text() for path in SAMPLE.rglob("*.*") if path.suffix != ".pyc"}
    spec = of_files(tmp_path / "sample", files)
    environment = cache.ensure(spec)
    code = "from pyfi.processors.sample import *; print(do_something('a'), '|', do_this('b', 'c'))"
    assert answer(environment, code) == "Did something with a | Did this: b, then c"
    assert "site-packages" in answer(environment, "import pyfi.processors.sample as s; print(s.__file__)")
    assert [task.name for task in cache.mirror.tasks(spec.url, spec.commit, "pyfi.processors.sample")] == [
        "do_something",
        "do_this",
    ]


def test_another_commit_or_other_requirements_are_another_environment(cache: EnvironmentCache, tmp_path: Path) -> None:
    first = of_files(tmp_path / "plain", {"tasks.py": "x = 1\n"})
    second = EnvironmentSpec(first.url, commit_files(tmp_path / "plain", {"tasks.py": "x = 2\n"}))
    third = EnvironmentSpec(first.url, first.commit, requirements="# nothing\n")
    environments = [cache.ensure(spec) for spec in (first, second, third)]
    assert len({environment.key for environment in environments}) == 3
    assert [answer(each, "import tasks; print(tasks.x)") for each in environments] == ["1", "2", "1"]


def test_requirements_that_are_given_are_installed_and_come_before_ours(
    cache: EnvironmentCache, tmp_path: Path
) -> None:
    spec = of_files(tmp_path / "plain", {"tasks.py": ""})
    stand_in = of_build(tmp_path / "stand-in", "pass")
    environment = cache.ensure(
        EnvironmentSpec(spec.url, spec.commit, requirements=stand_in.url.removeprefix("file://"))
    )
    assert answer(environment, "import built, tasks; print(built.answer())") == "42"
    order = answer(environment, "import sys; print(*sys.path)")
    assert order.index("site-packages") < order.index("/carried/") < order.index("/source")


def test_a_failed_build_shows_the_end_of_its_log_escaped_and_leaves_nothing(
    cache: EnvironmentCache, tmp_path: Path
) -> None:
    spec = of_files(tmp_path / "bad", {"setup.py": "print('\\x1b[31mred')\nraise SystemExit('no compiler, sorry')\n"})
    with pytest.raises(BadInput) as caught:
        cache.ensure(spec)
    facts = caught.value.facts
    assert (caught.value.code, facts["timeout"]) == ("E_BUILD", False)
    assert "no compiler, sorry" in facts["log"]
    assert "\x1b" not in facts["log"]
    assert "no compiler, sorry" in Path(facts["path"]).read_text()
    assert visible(cache) == []


def test_a_build_that_loops_and_forks_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    cache = EnvironmentCache(tmp_path / "cache", time_limit=3)
    pids = tmp_path / "pids"
    fork = (
        f"[os.fork() or os.setsid() for _ in range(3)]; print(os.getpid(), file=open({str(pids)!r}, 'a'), flush=True)"
    )
    with pytest.raises(BadInput) as caught:
        cache.ensure(of_build(tmp_path / "loop", f"{fork}\n    while True: time.sleep(1)"))
    started = [int(line) for line in pids.read_text().split()]
    assert (caught.value.code, caught.value.facts["timeout"]) == ("E_BUILD", True)
    assert len(started) == 8
    assert not [pid for pid in started if runs(pid)]
    assert visible(cache) == []


def test_many_builders_at_once_build_once(cache: EnvironmentCache, tmp_path: Path) -> None:
    count = tmp_path / "count"
    spec = of_build(tmp_path / "counted", f"time.sleep(0.5); open({str(count)!r}, 'a').write('x')")
    code = (
        "import sys; from pathlib import Path; from pyfi_hpc.envs.build import *;"
        "print(EnvironmentCache(Path(sys.argv[1])).ensure(EnvironmentSpec(*sys.argv[2:])).key)"
    )
    command = [sys.executable, "-c", code, str(cache.cache), spec.url, spec.commit]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    with ThreadPoolExecutor(3) as threads:
        keys = {each.key for each in threads.map(lambda _: cache.ensure(spec), range(3))}
    keys |= {process.communicate()[0].strip() for process in processes}
    assert (len(keys), count.read_text()) == (1, "x")


def test_a_killed_builder_leaves_no_process_and_nothing_visible_and_the_next_one_builds(
    cache: EnvironmentCache, tmp_path: Path
) -> None:
    pid, slow = tmp_path / "pid", tmp_path / "slow"
    slow.touch()
    note = f"open({str(pid)!r}, 'w').write(str(os.getpid()))"
    spec = of_build(tmp_path / "slow-one", f"{note}\n    while os.path.exists({str(slow)!r}): time.sleep(0.05)")
    code = (
        "import sys; from pathlib import Path; from pyfi_hpc.envs.build import *;"
        "EnvironmentCache(Path(sys.argv[1])).ensure(EnvironmentSpec(*sys.argv[2:]))"
    )
    builder = subprocess.Popen([sys.executable, "-c", code, str(cache.cache), spec.url, spec.commit])
    eventually(lambda: pid.exists() and pid.read_text() != "")
    worker = int(pid.read_text())
    assert runs(worker)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    eventually(lambda: not runs(worker))
    assert [name for name in visible(cache) if not name.startswith(".")] == []
    slow.unlink()
    assert answer(cache.ensure(spec), "import built; print(built.answer())") == "42"
    assert [name for name in visible(cache) if name.startswith(".")] == []


def test_a_build_gets_the_sites_compilers_and_none_of_our_secrets(
    cache: EnvironmentCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYFI_DATABASE_URI", "postgresql://me:hunter2@db/pyfi")
    monkeypatch.setenv("SITE_TOKEN", "hunter2")
    monkeypatch.setenv("LIBRARY_PATH", "/site/lib")
    seen = tmp_path / "seen"
    cache.ensure(of_build(tmp_path / "nosy", f"open({str(seen)!r}, 'w').write(repr(dict(os.environ)))"))
    assert "hunter2" not in seen.read_text()
    assert "/site/lib" in seen.read_text()


def test_prune_removes_all_but_those_kept_and_they_can_be_built_again(cache: EnvironmentCache, tmp_path: Path) -> None:
    specs = [of_files(tmp_path / name, {"tasks.py": f"name = {name!r}\n"}) for name in ("one", "two")]
    one, two = (cache.ensure(spec) for spec in specs)
    assert cache.prune({one.key}) == {two.key}
    assert (one.root.exists(), two.root.exists()) == (True, False)
    assert answer(cache.ensure(specs[1]), "import tasks; print(tasks.name)") == "two"


def test_an_interpreter_that_is_not_here_is_said_so(cache: EnvironmentCache, tmp_path: Path) -> None:
    spec = of_files(tmp_path / "plain", {"tasks.py": ""})
    with pytest.raises(BadInput) as caught:
        cache.ensure(EnvironmentSpec(spec.url, spec.commit, python="3.99"))
    assert (caught.value.code, caught.value.facts["field"]) == ("E_BUILD", "python")


def test_the_running_interpreter_can_be_named(cache: EnvironmentCache, tmp_path: Path) -> None:
    spec = of_files(tmp_path / "plain", {"tasks.py": ""})
    environment = cache.ensure(EnvironmentSpec(spec.url, spec.commit, python=sys.executable))
    assert answer(environment, "import tasks, sys; print(*sys.version_info[:2])") == "{} {}".format(*sys.version_info)
