"""The docs tell the truth: the tutorial does what it says, links lead somewhere, the reference is current."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from pyfi_hpc.cli.main import pyfi
from pyfi_hpc.config import Settings
from pyfi_hpc.db.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted(DOCS.glob("**/*.md"))]

FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (?P<path>[\w./]+\.py)\n")
#: What a command says that had to wait for more than a second, on a slow machine.
WAITING = re.compile(
    r"(waiting for \w+, \w+( until \S+| for another attempt [^\n]*)?|"
    r"srun: job \d+ (queued and waiting for|has been allocated) resources)\n"
)
LINK = re.compile(r"\]\((?P<target>[^)#]+)(?:#[^)]*)?\)")
TEST_FILE = re.compile(r"`(tests/[\w/]+\.py)`")


@dataclass(frozen=True)
class Step:
    """One thing that a page tells its reader to do, and what it says comes of it (None: it does not say)."""

    line: int
    command: str
    shows: str | None


def steps(page: str) -> Iterator[Step]:
    """The steps of a page in order: each command of a console, each program with the text after it."""
    blocks = [(page[: found.start()].count("\n") + 1, found["kind"], found["text"]) for found in FENCE.finditer(page)]
    for number, (line, kind, text) in enumerate(blocks):
        if kind == "console":
            yield from _commands(line, text)
        elif kind == "python" and (saved := FILE.match(text)):
            yield Step(line, f"cat > {saved['path']} <<'END'\n{text}END", "")
        elif kind == "python":
            after = blocks[number + 1] if number + 1 < len(blocks) else (0, "", "")
            yield Step(line, f"python - <<'END'\n{text}END", after[2] if after[1] == "text" else None)
        else:
            assert kind == "text", f"line {line}: a block of kind {kind!r} is not run"


def _commands(line: int, text: str) -> Iterator[Step]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shows = part.partition("\n")
        yield Step(line, command, shows)


def fits(shown: str, said: str) -> bool:
    """Whether `said` is what the page shows; `…` is any text of a line, alone on its line any lines."""
    pattern = "".join(
        r"(?:[^\n]*\n)*" if line == "…" else "[^\n]*".join(map(re.escape, line.split("…"))) + r"[ ]*\n"
        for line in shown.splitlines()
    )
    return re.fullmatch(pattern, said) is not None


class Reader:
    """A shell in a home of its own, as a reader has it: what one step changes stays for the next."""

    def __init__(self, home: Path, folder: Path | None = None) -> None:
        self.settings = Settings.load(options={"paths.state": str(home / "state")})
        place = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home)}
        # these tests may run under make, of which a reader's own make would speak
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        state = {"PYFI_HOME": str(home / "state"), "XDG_STATE_HOME": str(home / ".local" / "state")}
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=folder or home,
            env=bare | place | state,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def does(self, command: str) -> str:
        """What the command prints, errors too."""
        assert self._shell.stdin is not None and self._shell.stdout is not None
        self._shell.stdin.write(f"{{ {command}\n}} < /dev/null\necho '<done>'\n")
        self._shell.stdin.flush()
        lines = list(iter(self._shell.stdout.readline, "<done>\n"))
        assert self._shell.poll() is None, lines
        return "".join(line for line in lines if not WAITING.fullmatch(line))

    def leaves(self) -> None:
        """End the shell and what it has started."""
        self.does("pyfi local stop")
        self._shell.communicate(timeout=60)
        EmbeddedPostgres(self.settings.state_dir).remove()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Somebody who has installed it and nothing else."""
    found = Reader(tmp_path)
    yield found
    found.leaves()


@pytest.mark.slow
def test_the_tutorial_and_the_page_about_python_do_what_they_say(reader: Reader) -> None:
    follow(reader, DOCS / "tutorial.md", "pyfi local stop", DOCS / "python.md")


def follow(reader: Reader, page: Path, before: str = "", meanwhile: Path | None = None) -> None:
    """Do each step of the page, and compare what comes of it; those of another page before the command `before`."""
    todo = list(steps(page.read_text()))
    assert not before or before in [step.command for step in todo]
    for step in todo:
        if step.command == before and meanwhile is not None:
            follow(reader, meanwhile)
        said = reader.does(step.command)
        where = f"{page.relative_to(ROOT)} line {step.line}: {step.command}"
        assert step.shows is None or fits(step.shows, said), f"{where}\nshows:\n{step.shows}says:\n{said}"


@pytest.mark.slow
def test_the_pages_about_the_cluster_do_what_they_say(tmp_path: Path) -> None:
    reader = Reader(tmp_path, folder=ROOT)
    try:
        follow(reader, DOCS / "cluster.md", "make cluster-stop", DOCS / "waiting.md")
    finally:
        reader.does(f"make -C {ROOT} cluster-stop")
        reader.leaves()


def test_what_fits_and_what_does_not() -> None:
    assert fits("count …\n", "count 0192f3c1\n")
    assert fits("a\n…\nz\n", "a\nb\nc\nz\n")
    assert fits("", "")
    assert not fits("6\n", "7\n")
    assert not fits("6\n", "6\nand more\n")
    assert not fits("count …\n", "pyfi: count is there\n")
    assert not fits("lost 0 …\n", "lost 0\nrecorded twice 1\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_every_test_named_is_there(page: Path) -> None:
    text = page.read_text()
    links = [target for target in LINK.findall(text) if "://" not in target]
    missing = [target for target in links if not (page.parent / target).exists()]
    assert missing + [path for path in TEST_FILE.findall(text) if not (ROOT / path).exists()] == []


def test_the_reference_is_what_the_program_says() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "reference.py"))["page"]()
    assert (DOCS / "reference.md").read_text() == made, "run: python scripts/reference.py"


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "howto.md"], ids=lambda page: page.stem)
def test_every_command_named_can_be_typed(page: Path) -> None:
    consoles = [found["text"] for found in FENCE.finditer(page.read_text()) if found["kind"] == "console"]
    lines = [line[7:] for text in consoles for line in text.splitlines() if line.startswith("$ pyfi ")]
    assert len(lines) > 5
    for line in lines:
        words = shlex.split(line, comments=True)
        parsed(words[: words.index("<")] if "<" in words else words)


def parsed(words: list[str]) -> None:
    """Read a command line as `pyfi` does, without running it; raises where it refuses."""
    ctx: click.Context | None = None
    command: click.Command = pyfi
    while True:
        ctx = command.make_context(command.name, list(words), parent=ctx)
        if not isinstance(command, click.Group):
            return
        words = [*ctx._protected_args, *ctx.args]
        _, found, words = command.resolve_command(ctx, words)
        assert found is not None, words
        command = found
