"""Tasks read from source text, links judged on their own, pip's settings in uv's words: no service, no file."""

from pathlib import Path

import pytest

from pyfi_hpc.envs.surroundings import of_build
from pyfi_hpc.envs.tasks import Parameter, find, places, read
from pyfi_hpc.envs.tree import leads_out
from pyfi_hpc.errors import BadInput

SOURCE = b'''
import os
@decorated
def plain(a, /, b, c=1, *rest, d, e=2, **more):
    """Says what it does."""
    return [(yield_) for yield_ in rest]

async def later(): ...
def items():
    def inner(): return 1
    yield inner
def no_items():
    def inner(): yield 1
    return inner
def _private(): ...
class Thing:
    def method(self): ...
try:
    def guarded(): ...
except ImportError:
    def fallback(): ...
def later(x): return x
'''


def test_public_functions_at_the_top_are_tasks() -> None:
    tasks = {task.name: task for task in read(SOURCE, "m.py")}
    assert list(tasks) == ["plain", "later", "items", "no_items", "guarded", "fallback"]
    assert tasks["plain"].parameters == (
        Parameter("a", "positional_only", False),
        Parameter("b", "positional_or_keyword", False),
        Parameter("c", "positional_or_keyword", True),
        Parameter("rest", "var_positional", False),
        Parameter("d", "keyword_only", False),
        Parameter("e", "keyword_only", True),
        Parameter("more", "var_keyword", False),
    )
    assert tasks["plain"].source.startswith("@decorated\ndef plain(")
    assert (tasks["plain"].doc, tasks["plain"].line) == ("Says what it does.", 3)
    assert [name for name, task in tasks.items() if task.is_generator] == ["items"]
    assert [name for name, task in tasks.items() if task.is_async] == []  # the second `later` is the one that counts


def test_a_task_that_is_not_there_lists_those_that_are_and_suggests_the_nearest() -> None:
    tasks = read(SOURCE, "m.py")
    assert find(tasks, "items", "m").name == "items"
    with pytest.raises(BadInput) as caught:
        find(tasks, "plian", "m")
    assert caught.value.code == "E_TASK_NOT_FOUND"
    assert "did you mean 'plain'?" in str(caught.value)
    assert caught.value.facts["tasks"] == ["plain", "later", "items", "no_items", "guarded", "fallback"]


@pytest.mark.parametrize("source", [b"def broken(:\n", b"\x00", b"\xff\xfe", b"x = " + b"(" * 300])
def test_what_is_not_python_is_refused_with_its_place(source: bytes) -> None:
    with pytest.raises(BadInput) as caught:
        read(source, "m.py")
    assert (caught.value.code, "m.py:" in str(caught.value)) == ("E_IMPORT", True)


def test_a_module_is_looked_for_at_the_root_and_below_src() -> None:
    assert places("a.b") == ["a/b.py", "a/b/__init__.py", "src/a/b.py", "src/a/b/__init__.py"]


@pytest.mark.parametrize("module", ["", "a/b", "..", "a..b", "a.", "1a", "-m", "a b", "a\n"])
def test_what_is_no_name_of_a_module_is_refused(module: str) -> None:
    with pytest.raises(BadInput) as caught:
        places(module)
    assert caught.value.code == "E_MODULE"


@pytest.mark.parametrize(
    ("links", "out"),
    [
        ({"a": "b/c"}, False),
        ({"x/a": "../b"}, False),
        ({"a": ".."}, True),
        ({"x/a": "../../b"}, True),
        ({"a": "/etc"}, True),
        ({"a": "b/../../c", "b": "x/y"}, False),
        ({"a": "x/up/..", "x/up": ".."}, True),
        ({"a": "a"}, False),
        ({"a": "b", "b": "a"}, False),
    ],
)
def test_a_link_is_followed_through_the_others(links: dict[str, str], out: bool) -> None:
    assert leads_out("a" if "a" in links else "x/a", links) is out


def test_a_build_uses_the_index_of_pips_settings_unless_uv_has_its_own(tmp_path: Path) -> None:
    conf = tmp_path / "pip.conf"
    conf.write_text(
        "[global]\nindex-url = https://a.example/simple\nextra_index_url =\n  https://b.example/simple\n"
        "  https://c.example/simple\nfind-links = /wheels /more\ntrusted-host = a.example\n[install]\ncert = /ca.pem\n"
    )
    own = {"PIP_CONFIG_FILE": str(conf), "HOME": str(tmp_path), "PYFI_DATABASE_URI": "secret"}
    build = of_build(own)
    assert build["UV_DEFAULT_INDEX"] == "https://a.example/simple"
    assert build["UV_EXTRA_INDEX_URL"] == "https://b.example/simple https://c.example/simple"
    assert build["UV_FIND_LINKS"] == "/wheels,/more"
    assert build["UV_INSECURE_HOST"] == "a.example"
    assert build["SSL_CERT_FILE"] == "/ca.pem"
    assert "PYFI_DATABASE_URI" not in build
    assert of_build(own | {"PIP_INDEX_URL": "https://d.example"})["UV_DEFAULT_INDEX"] == "https://d.example"
    assert "UV_DEFAULT_INDEX" not in of_build(own | {"UV_INDEX_URL": "https://e.example"})
