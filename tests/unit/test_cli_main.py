"""The command line without any service: help, usage errors, exit codes, the settings commands."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pyfi_hpc.cli import main as cli
from pyfi_hpc.cli.command import Command, Group
from pyfi_hpc.cli.context import Platform
from pyfi_hpc.cli.main import pyfi, run
from pyfi_hpc.errors import BadInput

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a working directory without settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_benchmarks_say_what_they_need_where_it_is_missing() -> None:
    code = (
        "import importlib.util as u; real = u.find_spec;"
        "u.find_spec = lambda name, *more: None if name == 'pytest' else real(name, *more);"
        "import benchmarks.__main__"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.endswith("scripts/venv test\n") and "Traceback" not in done.stderr


def leaves(
    command: click.Command, path: tuple[str, ...] = ("pyfi",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is no group, with its path."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None, (path, name)
        yield from leaves(found, (*path, name))


def groups(command: click.Command, path: tuple[str, ...] = ("pyfi",)) -> Iterator[tuple[tuple[str, ...], Group]]:
    if isinstance(command, Group):
        yield path, command
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from groups(found, (*path, name))


LEAVES = dict(leaves(pyfi))
GROUPS = dict(groups(pyfi))


def parsed(command: click.Command, arguments: list[str], parent: click.Context | None = None) -> list[str]:
    """The path of the command that `arguments` name, all options read, nothing run."""
    name = "pyfi" if parent is None else parent.params.pop("named", "")
    with command.make_context(name, list(arguments), parent=parent) as ctx:
        if not isinstance(command, click.Group):
            return [name]
        ctx.obj = ctx.obj or Platform()
        found, child, rest = command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
        assert child is not None
        ctx.params["named"] = found
        return [name, *parsed(child, rest, ctx)]


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_has_one_sentence_and_three_examples_that_parse(
    path: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    command = LEAVES[path]
    assert isinstance(command, Command)
    assert run([*path[1:], "--help"]) == 0
    shown = capfd.readouterr().out
    assert shown.startswith(f"Usage: {' '.join(path)}")
    assert "Examples:" in shown and (command.help or "").strip().endswith((".", ")"))
    assert len(command.examples) >= 3
    for example in command.examples:
        words = shlex.split(example, comments=True)
        while "=" in words[0]:
            words.pop(0)
        end = next((number for number, word in enumerate(words) if word in ("<", "|", ">", "&&")), len(words))
        assert words[0] == "pyfi"
        assert tuple(parsed(pyfi, words[1:end]))[: len(path)] == path


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_a_group_alone_shows_its_help_and_succeeds(path: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*path[1:]]) == 0
    shown = capfd.readouterr()
    assert shown.out.startswith("Usage: pyfi") and not shown.err


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_the_list_of_a_group_says_what_the_commands_themselves_say(path: tuple[str, ...]) -> None:
    group = GROUPS[path]
    for name, (_, line) in group.lazy.items():
        command = group.get_command(click.Context(group), name)
        assert command is not None
        assert (command.help or "").strip().splitlines()[0] == line


def test_only_the_long_word_means_help_because_h_is_a_host() -> None:
    for path, command in {**LEAVES, **GROUPS}.items():
        assert command.get_help_option_names(click.Context(command)) == ["--help"], path


def test_help_imports_neither_client_nor_database() -> None:
    program = "import sys; from pyfi_hpc.cli.main import run; run(['--help']); print(*sys.modules, sep='\\n')"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert not {"sqlalchemy", "psycopg2", "pika", "numpy", "msgspec", "zmq", "yaml", "rich"} & set(found)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("confg", "E_USAGE", ["'confg'", "pyfi config"]),
        ("config shw", "E_USAGE", ["'shw'", "pyfi config show"]),
        ("config show --orgin", "E_USAGE", ["--orgin", "did you mean --origin?"]),
        ("config show -o yml", "E_CHOICE", ["--output yml", "did you mean yaml?"]),
        ("config show databse.uri", "E_CHOICE", ["did you mean database.uri?"]),
        ("config show --columns nam", "E_CHOICE", ["did you mean name?"]),
        ("config show --limit 0", "E_RANGE", ["--limit 0"]),
        ("config set", "E_MISSING", ["name is missing"]),
        ("config set git.alow x", "E_CONFIG", ["did you mean git.allow?"]),
        ("status", "E_USAGE", ["pyfi local status", "pyfi ps"]),
        ("config get database.uri", "E_USAGE", ["try: pyfi config show NAME"]),
        ("config unset database.uri", "E_USAGE", ["pyfi config show NAME --origin"]),
        ("config set agent.poll_seconds -1", "E_USAGE", ["try: pyfi config set agent.poll_seconds -- -1"]),
        ("config set agent.poll_seconds -- -1", "E_RANGE", ["a number from 0.05 to 3600 is wanted"]),
        ("config set paths.blobs_gib 0", "E_RANGE", ["a number from 0.001 to 1073741824 is wanted"]),
        ("call sim.echo -1.5 [2]", "E_USAGE", ["try: pyfi call sim.echo -- -1.5 '[2]'"]),
        ("call sim.echo 3 -1 -v", "E_USAGE", ["-- -1: options first"]),
        ("config check more", "E_USAGE", ["pyfi config check --help"]),
        ("--orgin", "E_USAGE", ["--orgin"]),
        ("-i", "E_USAGE", ["requires an argument"]),
        ("-i absent.ini config check", "E_CONFIG", ["absent.ini"]),
        ("-d mysql://ana:hunter2@h/d config show", "E_DB_URI", ["mysql://ana:•••@h/d"]),
    ],
)
def test_bad_input_is_one_line_with_its_code_and_exit_2(
    line: str, code: str, words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == 2
    shown = capfd.readouterr()
    assert not shown.out
    first, *more = shown.err.splitlines()
    assert first.startswith("pyfi: ") and first.endswith(f"({code})")
    assert all(text.startswith(("  at:  ", "  try: ")) for text in more)
    assert all(word in shown.err for word in words)
    assert "Traceback" not in shown.err and "hunter2" not in shown.err


def test_an_error_has_the_same_fields_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "-o", "json", "databse.uri"]) == 2
    found = json.loads(capfd.readouterr().err)
    assert (found["version"], found["error"]["code"], found["error"]["exit_code"]) == (1, "E_CHOICE", 2)
    assert found["error"]["try"] == "did you mean database.uri?"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command `fail` that raises what stands in the list."""
    raised: list[BaseException] = []

    @click.command("fail")
    def fail() -> None:
        raise raised[0]

    monkeypatch.setitem(pyfi.commands, "fail", fail)
    return raised


def test_a_fault_of_ours_is_one_line_and_exit_5(
    failing: list[BaseException], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failing.append(ZeroDivisionError("a\n  b\x1b"))
    monkeypatch.setattr(sys, "argv", ["pyfi", "-d", "postgresql://ana:hunter2@h/d", "fail"])
    assert run(["fail"]) == 5
    shown = capfd.readouterr().err
    assert shown.startswith("pyfi: ZeroDivisionError: a b\\x1b (E_INTERNAL)\n") and "Traceback" not in shown
    assert shown.endswith("  try: pyfi --debug -d postgresql://ana:•••@h/d fail\n")
    monkeypatch.setattr(sys, "argv", ["pyfi", "--debug", "fail"])
    assert run(["--debug", "fail"]) == 5
    shown = capfd.readouterr().err
    # what was asked for is not advised again
    assert "Traceback" in shown and "try:" not in shown


def test_an_interrupt_is_exit_130(failing: list[BaseException], capfd: pytest.CaptureFixture[str]) -> None:
    failing.append(KeyboardInterrupt())
    assert run(["fail"]) == 130
    assert capfd.readouterr().err == "pyfi: interrupted\n"


def test_every_kind_of_error_has_an_exit_code_that_the_help_lists(
    failing: list[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    from pyfi_hpc import errors

    kinds = [(errors.BadInput, 2), (errors.BrokerUnavailable, 3), (errors.Dead, 1), (errors.WaitTimeout, 4)]
    for kind, code in kinds:
        failing[:] = [kind("E_INTERNAL", "x")]
        assert run(["fail"]) == code
    run(["--help"])
    shown = capfd.readouterr().out
    assert all(f"  {code}  " in shown for code in (0, 1, 2, 3, 4, 5, 130))


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m pyfi_hpc config show -o json | head -1; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (found.stdout.split(), found.stderr) == (["{", "0"], "")


@pytest.mark.parametrize(
    ("variables", "choice", "wanted"),
    [
        ({}, "auto", None),
        ({"NO_COLOR": "1"}, "auto", False),
        ({"NO_COLOR": ""}, "auto", None),
        ({"FORCE_COLOR": "1"}, "auto", True),
        ({"NO_COLOR": "1"}, "always", True),
        ({"FORCE_COLOR": "1"}, "never", False),
    ],
)
def test_colour_follows_the_option_then_the_environment(
    variables: dict[str, str], choice: str, wanted: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli.wants_colour(choice) is wanted


def test_config_show_tells_value_and_origin(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ini = home / "site.ini"
    ini.write_text("[slurm]\npartition = gpu\n")
    line = ["-i", str(ini), "-d", "postgresql://a:hunter2@h/d", "config", "show", "--origin", "-o", "json"]
    assert run(line) == 0
    rows = {row["name"]: row for row in json.loads(capfd.readouterr().out)["items"]}
    assert (rows["slurm.partition"]["value"], rows["slurm.partition"]["origin"]) == ("gpu", f"{ini} line 2")
    assert (rows["database.uri"]["value"], rows["database.uri"]["origin"]) == ("postgresql://a:•••@h/d", "option")
    assert rows["broker.uri"]["origin"] == "default"


def test_config_set_stores_in_the_persons_own_file(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "set", "slurm.partition", "gpu"]) == 0
    capfd.readouterr()
    assert run(["config", "show", "slurm.partition", "--no-header"]) == 0
    assert capfd.readouterr().out.split() == ["slurm.partition", "gpu"]
    assert (home / "config/pyfi/pyfi.ini").stat().st_mode & 0o777 == 0o600


def test_the_wizard_asks_and_stores(home: Path) -> None:
    answers = "postgresql://ana:pw@h/d\n\nhttps://git.example.org/\ngpu\n\n"
    found = subprocess.run(
        [sys.executable, "-m", "pyfi_hpc", "-c"], input=answers, capture_output=True, text=True, env={**os.environ}
    )
    assert found.returncode == 0, found.stderr
    stored = (home / "config/pyfi/pyfi.ini").read_text()
    assert "uri = postgresql://ana:pw@h/d" in stored and "partition = gpu" in stored and "broker" not in stored


def test_confirmation_needs_a_terminal_or_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyfi_hpc.cli.context import confirm

    confirm("delete 3 sockets", yes=True)
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(BadInput) as caught:
            confirm("delete 3 sockets", yes=False)
    assert (caught.value.code, caught.value.cure) == ("E_CONFIRM", "add -y")
