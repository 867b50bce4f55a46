"""What may be said of the packages that a processor needs."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pyfi_hpc.cli.shared import shape_options
from pyfi_hpc.envs import requirements
from pyfi_hpc.errors import BadInput


@pytest.mark.parametrize("text", ["requirements.txt", "-r requirements.txt", "numpy\n ./needs/base.in ", "poetry.lock"])
def test_a_file_s_name_is_no_requirement(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        requirements.checked(text)
    assert refused.value.code == "E_USAGE" and "-rq numpy" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["", "numpy", "numpy>=1.2\nscipy ; python_version > '3'", "-r source/needs/gpu.txt", "a @ https://h/a.txt", "/w/x"],
)
def test_packages_are_taken_as_they_are_written(text: str) -> None:
    assert requirements.checked(text) == text


def test_the_cure_names_the_package_and_where_it_is_added() -> None:
    said = "module sim cannot be imported: ModuleNotFoundError: No module named 'numpy.linalg'"
    assert "pyfi update processor sim -rq numpy" in str(requirements.cure("sim", said))
    assert requirements.cure("sim", "module sim cannot be imported: ValueError: No module named 'x'") is None


def test_several_packages_are_one_line_each() -> None:
    import click

    @click.command()
    @shape_options
    def shown(requirements: str | None, **_: object) -> None:
        click.echo(repr(requirements))

    assert CliRunner().invoke(shown, ["-rq", "numpy", "-rq", "scipy>=1"]).output == "'numpy\\nscipy>=1'\n"
    assert CliRunner().invoke(shown, []).output == "None\n"
    assert CliRunner().invoke(shown, ["-rq", ""]).output == "''\n"
