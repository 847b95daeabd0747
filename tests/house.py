"""Rules of the house that a program can hold: each function lists what breaks one of them in the tree it is given.

`docs/architecture.md` says what the packages are; import-linter, configured in `pyproject.toml`, holds their order.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

SHORT, LONG = 60, 400
"""Lines that a file has at least and at most, but for those that are listed with a reason."""


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module below a package's folder."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def unlisted_loose_modules(package: Path, listed: Collection[str]) -> list[str]:
    """Modules at the top of the package that nobody gave a reason for."""
    return sorted(path.stem for path in package.glob("*.py") if path.stem not in listed)


def named_as_public_functions(package: Path, public: Collection[str]) -> list[str]:
    """Children of the package with the name of a public function: importing one would hide the function."""
    children = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    return sorted(children & set(public))


def classes_named_twice(package: Path) -> dict[str, list[str]]:
    """Class name -> the modules that define it, where there are several."""
    homes = defaultdict(list)
    for name, path in modules(package).items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name)
    return {name: where for name, where in homes.items() if len(where) > 1}


def packages_with_code(package: Path, allowed: Collection[str]) -> list[str]:
    """Packages whose `__init__` holds anything but a docstring."""
    return [
        name
        for name, path in modules(package).items()
        if path.name == "__init__.py" and name not in allowed and not _is_docstring_alone(path)
    ]


def files_out_of_size(package: Path, reasons: Mapping[str, str]) -> list[str]:
    """Modules shorter or longer than a file should be, without a reason; and reasons that nothing needs any more."""
    sizes = {
        name: len(path.read_text("utf-8").splitlines())
        for name, path in modules(package).items()
        if path.name != "__init__.py"
    }
    odd = {name for name, lines in sizes.items() if not SHORT <= lines <= LONG}
    return sorted(odd - set(reasons)) + sorted(f"{name} needs no reason" for name in set(reasons) - odd)


def file_names_twice(package: Path, reasons: Mapping[str, str]) -> list[str]:
    """File names that stand in several packages, without a reason."""
    counts: dict[str, int] = defaultdict(int)
    for path in modules(package).values():
        counts[path.stem] += 1
    twice = {name for name, count in counts.items() if count > 1 and name != "__init__"}
    return sorted(twice - set(reasons)) + sorted(f"{name} needs no reason" for name in set(reasons) - twice)


def circles(packages: Iterable[Path]) -> list[list[str]]:
    """Groups of modules that import one another, in functions and for types included."""
    known: dict[str, Path] = {}
    for package in packages:
        known |= modules(package)
    graph = {name: set(_imported(path, known)) - {name} for name, path in known.items()}
    return [sorted(group) for group in _strongly_connected(graph) if len(group) > 1]


def without_shapes(package: Path) -> list[str]:
    """Public functions with tensors whose docstring has neither a shape such as `[N, C]` nor `any shape`."""
    silent = []
    for name, path in modules(package).items():
        for function, owner in _public_functions(ast.parse(path.read_text("utf-8"))):
            signature = ast.unparse(function.args) + (ast.unparse(function.returns) if function.returns else "")
            document = ast.get_docstring(function) or ""
            # A dictionary of tensors by name has no shape to tell.
            bare = re.sub(r"(?:Mapping|dict)\[str, (?:torch\.)?Tensor(?: \| None)?\]", "", signature)
            if re.search(r"\bTensor\b", bare) and not re.search(r"\w\[[^\]]*\w[^\]]*\]|\bany shape\b", document):
                silent.append(f"{name}.{owner}{function.name}")
    return silent


def private_names_patched(tests: Path) -> list[str]:
    """Places where a test replaces a private name of zoo or a plugin."""
    found = []
    for path in sorted(tests.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
                words = [each.value for each in node.args[:2] if isinstance(each, ast.Constant)]
                if any(_is_private(word) for word in words if isinstance(word, str)):
                    found.append(f"{path.relative_to(tests)}:{node.lineno}")
    return found


def unmirrored(tests: Path, package: Path, others: Collection[str]) -> list[str]:
    """Folders of tests that are named after no package of the code."""
    own = {path.name for path in package.iterdir() if path.is_dir()} | set(others)
    return sorted(path.name for path in tests.iterdir() if path.is_dir() and path.name not in own)


def _is_docstring_alone(path: Path) -> bool:
    body = ast.parse(path.read_text("utf-8")).body
    return len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)


def _imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                if inside in known or node.module in known:
                    yield inside if inside in known else node.module


def _strongly_connected(graph: Mapping[str, Collection[str]]) -> Iterator[set[str]]:
    """By what each name reaches: small graphs need no more."""
    reach = {name: _reached(graph, name) for name in graph}
    seen: set[str] = set()
    for name in graph:
        if name not in seen:
            group = {name, *(other for other in reach[name] if name in reach[other])}
            seen |= group
            yield group


def _reached(graph: Mapping[str, Collection[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph.get(waiting.pop(), ()):
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    return reached


def _public_functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, str]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inside in node.body:
                if isinstance(inside, ast.FunctionDef) and not inside.name.startswith("_"):
                    yield inside, f"{node.name}."


def _is_private(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last.startswith("_") and not last.startswith("__")
