"""The tasks that a module offers, read from its source; the module is never imported."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pyfi_hpc.errors import BadInput

MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
#: Where a repository keeps its packages, in the order in which they are looked for.
ROOTS = ("", "src/")


@dataclass(frozen=True)
class Parameter:
    """One parameter; `kind` is as `inspect` names it, in lower case: `positional_or_keyword`, `var_positional`, …"""

    name: str
    kind: str
    has_default: bool


@dataclass(frozen=True)
class Task:
    """One public function at the top of the module; `source` is its text with decorators, `line` its first."""

    name: str
    parameters: tuple[Parameter, ...]
    source: str
    line: int
    is_async: bool
    is_generator: bool
    doc: str | None


def places(module: str) -> list[str]:
    """The paths at which a repository may keep `module`.

    Raises:
        BadInput: E_MODULE, that is no module's name.
    """
    if not MODULE.fullmatch(module):
        raise BadInput.of("E_MODULE", "module", module, "not a module's name: write it as in 'import a.b.c'")
    path = module.replace(".", "/")
    return [f"{root}{path}{end}" for root in ROOTS for end in (".py", "/__init__.py")]


def read(source: bytes, path: str) -> list[Task]:
    """The tasks in `source`, in its order; a later definition of a name replaces the earlier.

    Raises:
        BadInput: E_IMPORT, it is not Python.
    """
    try:
        tree = ast.parse(source, path)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise BadInput.of("E_IMPORT", "module", f"{path}:{line}", f"the module is not Python: {error}") from error
    text = source.decode(errors="replace")
    found = {node.name: _task(node, text) for node in _functions(tree.body) if not node.name.startswith("_")}
    return list(found.values())


def find(tasks: Sequence[Task], name: str, module: str) -> Task:
    """The task called `name`.

    Raises:
        BadInput: E_TASK_NOT_FOUND, lists those that there are and suggests the nearest.
    """
    names = [task.name for task in tasks]
    if name in names:
        return tasks[names.index(name)]
    near = difflib.get_close_matches(name, names, n=1)
    what = f"{module} has no task {name!r}; it has: {', '.join(names) or 'none'}"
    cure = f"did you mean {near[0]!r}?" if near else None
    error = BadInput.of("E_TASK_NOT_FOUND", "task", name, what, cure=cure)
    error.facts["tasks"] = names
    raise error


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(body: Iterable[ast.stmt]) -> Iterator[Function]:
    """Top-level functions, also those under a top-level `if`, `try` or `with`."""
    for node in body:
        if isinstance(node, Function):
            yield node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "handlers", "orelse", "finalbody"):
                yield from _functions(getattr(node, part, []))
        elif isinstance(node, ast.ExceptHandler):
            yield from _functions(node.body)


def _task(node: Function, text: str) -> Task:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = text.splitlines(keepends=True)[first - 1 : node.end_lineno]
    return Task(
        name=node.name,
        parameters=tuple(_parameters(node.args)),
        source="".join(lines),
        line=first,
        is_async=isinstance(node, ast.AsyncFunctionDef),
        is_generator=any(isinstance(part, ast.Yield | ast.YieldFrom) for part in _own(node)),
        doc=ast.get_docstring(node),
    )


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a function that are not inside another function of its own."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.Lambda | ast.ClassDef):
            yield child
            yield from _own(child)


def _parameters(given: ast.arguments) -> Iterator[Parameter]:
    plain = [(argument, "positional_only") for argument in given.posonlyargs]
    plain += [(argument, "positional_or_keyword") for argument in given.args]
    bare = len(plain) - len(given.defaults)
    for index, (argument, kind) in enumerate(plain):
        yield Parameter(argument.arg, kind, index >= bare)
    if given.vararg:
        yield Parameter(given.vararg.arg, "var_positional", False)
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield Parameter(argument.arg, "keyword_only", default is not None)
    if given.kwarg:
        yield Parameter(given.kwarg.arg, "var_keyword", False)
