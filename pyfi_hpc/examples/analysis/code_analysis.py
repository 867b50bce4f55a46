"""Findings about Python source files: one call for each file, then a tree of merges.

Findings are a plain dictionary. Those of one file and those of many look the same, so they can be merged in any order.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

#: How many of the longest, deepest and most complex functions are kept.
KEPT = 5

Findings = dict[str, Any]
Function = ast.FunctionDef | ast.AsyncFunctionDef

_NESTS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
#: Each of these is one more way through a function. Source: T. J. McCabe, "A Complexity Measure", 1976.
_DECIDES = (
    ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.comprehension,
    ast.match_case,
)  # fmt: skip


def analyse(name: str, text: str) -> Findings:
    """The findings in one file; one that cannot be parsed is named in `unreadable`."""
    try:
        tree = ast.parse(text, name)
    except (SyntaxError, ValueError):
        return _findings(files=1, lines=len(text.splitlines()), unreadable=[name])
    functions = list(_functions(tree, name))
    return _findings(
        files=1,
        lines=len(text.splitlines()),
        classes=sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)),
        functions=len(functions),
        imports=dict(Counter(_imports(tree))),
        longest=_most([length(node), where] for where, node in functions),
        deepest=_most([depth(node), where] for where, node in functions),
        complex=_most([complexity(node), where] for where, node in functions),
    )


def merge(parts: Sequence[Findings]) -> Findings:
    """The findings of all parts together."""
    imports: Counter[str] = Counter()
    for part in parts:
        imports.update(part["imports"])
    counts = {key: sum(part[key] for part in parts) for key in ("files", "lines", "classes", "functions")}
    most = {key: _most(entry for part in parts for entry in part[key]) for key in ("longest", "deepest", "complex")}
    unreadable = [name for part in parts for name in part["unreadable"]]
    return _findings(**counts, **most, imports=dict(imports), unreadable=unreadable)


def length(function: Function) -> int:
    """How many lines it has, decorators left out."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def depth(node: ast.AST) -> int:
    """How many statements of control flow stand inside one another at most."""
    own = isinstance(node, _NESTS)
    return own + max((depth(child) - _is_elif(node, child) for child in ast.iter_child_nodes(node)), default=0)


def _is_elif(node: ast.AST, child: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]


def complexity(function: Function) -> int:
    """McCabe's number: how many independent ways lead through it."""
    nodes = list(ast.walk(function))
    operators = sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
    return 1 + operators + sum(isinstance(node, _DECIDES) for node in nodes)


def _functions(node: ast.AST, where: str, mark: str = ":") -> Iterator[tuple[str, Function]]:
    """Every function below `node` with its place: `file.py:Class.method`."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.ClassDef):
            yield from _functions(child, where, mark)
            continue
        inner = f"{where}{mark}{child.name}"
        if isinstance(child, Function):
            yield inner, child
        yield from _functions(child, inner, ".")


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _most(entries: Any) -> list[list[Any]]:
    return sorted(entries, key=lambda entry: (-entry[0], entry[1]))[:KEPT]


def _findings(**found: Any) -> Findings:
    nothing: Findings = {
        "files": 0, "lines": 0, "classes": 0, "functions": 0, "imports": {},
        "longest": [], "deepest": [], "complex": [], "unreadable": [],
    }  # fmt: skip
    return nothing | found
