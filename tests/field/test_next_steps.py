"""Every error on bad input says what to do next, in a line of its own that begins with `Next: `.

Read from the code, so that it holds for errors that no test provokes: of every place that makes one of zoo's errors,
the text is followed through the names, functions and constants of which it is put together.
"""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from tests.commands import ROOT
from zoo.errors import PluginError, UnknownName, with_step, without_step

PARTS = ("zoo", "heads", "recipes")
STEP = re.compile(r"(?:^|\n)(?:Next|To resume): ")
ROOTS = ("ZooError", "LayoutError")
"""The bases of what is told to users; a LayoutError becomes the end of a DataError."""
CUT_SHORT = {"first_line", "one_line", "without_step"}
"""Functions that leave the next step of a message out."""

WITHOUT = {
    # Whoever lists such images, or cannot do without this one, says what to do.
    "zoo.data.decode": "",
    "zoo.data.depth": "",
    "zoo.data.memory.pictures": "",
    "zoo.artefact.classifier": "NO_CLASS",
    # They pass on the whole message of another error.
    "zoo.bulk.carry_out": "RunError(message)",
    "zoo.training.checkpoint": "RunError(str(error))",
}
"""Errors that need no next step of their own, as (module, what the code has)."""


@dataclass
class Module:
    """A module, and what the text of an error can be made of."""

    name: str
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name here -> (module, name there)."""
    defined: dict[str, list[ast.AST]] = field(default_factory=dict)
    """Functions, classes and constants; names of methods stand for all methods of that name."""
    made: list[tuple[ast.Call, Sequence[ast.AST]]] = field(default_factory=list)
    """Calls by a plain name or attribute, with the functions and handlers around each, innermost last."""

    def read(self, tree: ast.Module) -> Module:
        for node in tree.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    self.defined.setdefault(named(target), []).append(node.value)
        self._visit(tree, ())
        return self

    def _visit(self, node: ast.AST, around: tuple[ast.AST, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            inside = around
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                self.defined.setdefault(child.name, []).append(child)
            if isinstance(child, (ast.FunctionDef, ast.ExceptHandler)):
                inside = (*around, child)
            elif isinstance(child, ast.ImportFrom) and child.module:
                self.imported |= {each.asname or each.name: (child.module, each.name) for each in child.names}
            elif isinstance(child, ast.Call) and named(child.func)[:1].isupper():
                self.made.append((child, around))
            self._visit(child, inside)


def named(node: ast.AST | None) -> str:
    """The last part of a name, such as `b` of `a.b`; empty for anything else."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


class Code:
    """Modules by name, and which of their errors say what to do next."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources
        # By their first lines, for most modules hold none, and to parse them all takes longer than all the rest.
        heads = re.findall(r"^class (\w+)\((.+?)\):", "\n".join(sources.values()), re.MULTILINE)
        self.errors = {*ROOTS}
        while more := {name for name, bases in heads if self.errors & {*re.findall(r"\w+", bases)}} - self.errors:
            self.errors |= more

    @cache  # noqa: B019 - one object, for one test
    def module(self, name: str) -> Module:
        return Module(name).read(ast.parse(self.sources.get(name, "")))

    @cache  # noqa: B019 - one object, for one test
    def says_for_all(self, kind: str) -> bool:
        """Whether every error of a kind has its next step from the class."""
        (home,) = (name for name, text in self.sources.items() if re.search(rf"^class {kind}\(", text, re.MULTILINE))
        (found,) = self.module(home).defined[kind]
        assert isinstance(found, ast.ClassDef)
        bases = [named(base) for base in found.bases if named(base) in self.errors - {*ROOTS}]
        return _says_for_all(found) or any(map(self.says_for_all, bases))

    def silent(self) -> Iterator[tuple[str, str]]:
        """(module, where and what) of every error that is made without a next step."""
        makes = re.compile(rf"\b(?:{'|'.join(self.errors)})\(")
        for module in (self.module(name) for name, text in self.sources.items() if makes.search(text)):
            for call, around in module.made:
                kind = named(call.func)
                if kind in self.errors and not (self.says_for_all(kind) or self._says(module, call, around)):
                    yield module.name, f"{module.name}:{call.lineno}: {ast.unparse(call)[:90]}"

    def _says(self, module: Module, call: ast.Call, around: Sequence[ast.AST]) -> bool:
        # `step` is the argument of UnknownName for it.
        if any(keyword.arg == "step" for keyword in call.keywords):
            return True
        seen: set[tuple[str, str, int]] = set()
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        return any(self._text_says(module, value, around, seen) for value in values)

    def _text_says(
        self, module: Module, value: ast.AST, around: Sequence[ast.AST], seen: set[tuple[str, str, int]]
    ) -> bool:
        for part in _told(value):
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and STEP.search(part.value):
                return True
            name = named(part)
            key = (module.name, name, id(around[-1]) if around else 0)
            if name and key not in seen:
                seen.add(key)
                if self._name_says(module, name, around, seen):
                    return True
        return False

    def _name_says(self, module: Module, name: str, around: Sequence[ast.AST], seen: set[tuple[str, str, int]]) -> bool:
        if any(self._is_error(each, name) for each in around):
            return True  # another error of zoo, which is passed on with its own step
        local = [value for each in around for value in _assigned(each).get(name, ())]
        if any(self._text_says(module, value, around, seen) for value in local):
            return True
        place, there = module.imported.get(name, (module.name, name))
        home = self.module(place)
        return any(
            self._returned_says(home, each, seen)
            if isinstance(each, ast.FunctionDef)
            else self._text_says(home, each, (), seen)
            for each in home.defined.get(there, ())
            if not isinstance(each, ast.ClassDef)
        )

    def _returned_says(self, module: Module, function: ast.FunctionDef, seen: set[tuple[str, str, int]]) -> bool:
        """Whether each text that a function returns says what to do, whichever it is."""
        inner = {id(part) for each in ast.walk(function) if _is_inner(each, function) for part in ast.walk(each)}
        outer = (each for each in ast.walk(function) if id(each) not in inner)
        returned = [each.value for each in outer if isinstance(each, ast.Return) and each.value]
        texts = [each for each in returned if not (isinstance(each, ast.Constant) and not each.value)]
        return bool(texts) and all(self._text_says(module, each, (function,), {*seen}) for each in texts)

    def _is_error(self, around: ast.AST, name: str) -> bool:
        """Whether `name` is one of zoo's errors: caught, or the parameter of a function."""
        if isinstance(around, ast.ExceptHandler):
            caught = around.type.elts if isinstance(around.type, ast.Tuple) else [around.type]
            return around.name == name and all(named(each) in self.errors for each in caught)
        assert isinstance(around, ast.FunctionDef)
        return any(each.arg == name and named(each.annotation) in self.errors for each in around.args.args)


def _told(value: ast.AST) -> Iterator[ast.AST]:
    """The parts of a text, without what is told of it only up to its next step."""
    if isinstance(value, ast.Call) and named(value.func) in CUT_SHORT:
        return
    yield value
    for child in ast.iter_child_nodes(value):
        yield from _told(child)


def _is_inner(node: ast.AST, function: ast.FunctionDef) -> bool:
    return isinstance(node, ast.FunctionDef) and node is not function


def _says_for_all(kind: ast.ClassDef) -> bool:
    own = {named(target) for each in kind.body if isinstance(each, ast.Assign) for target in each.targets}
    texts = (each.value for each in ast.walk(kind) if isinstance(each, ast.Constant) and isinstance(each.value, str))
    return "next_step" in own or any(map(STEP.search, texts))


@cache
def _assigned(around: ast.AST) -> dict[str, list[ast.AST]]:
    """What a function assigns to each name."""
    found: dict[str, list[ast.AST]] = {}
    for each in ast.walk(around):
        if isinstance(each, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and each.value is not None:
            for target in each.targets if isinstance(each, ast.Assign) else [each.target]:
                for name in {named(part) for part in ast.walk(target)}:
                    found.setdefault(name, []).append(each.value)
    return found


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "zoo" else parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def code() -> Code:
    files = [path for part in PARTS for path in sorted((ROOT / part).rglob("*.py"))]
    return Code({module_of(path): path.read_text("utf-8") for path in files})


def test_every_error_says_what_to_do_next(code: Code) -> None:
    assert len(code.errors) > 20
    found = list(code.silent())
    assert [where for module, where in found if not excepted(module, where)] == []
    needed = {module for module, where in found if excepted(module, where)}
    assert needed == {*WITHOUT}, "an exception that nothing needs any more"


def excepted(module: str, where: str) -> bool:
    return module in WITHOUT and WITHOUT[module] in where


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('raise DataError("There are none.")', False),
        ('raise DataError("There are none. Next: add some.")', False),  # not in a line of its own
        ('raise DataError("There are none.\\nNext: add some.")', True),
        ("raise DataError(f'No {name}.\\n{STEP}')", True),
        ("raise DataError(told(name))", True),
        ("raise DataError(name)", False),
        ("text = told(name)\n    raise DataError(text)", True),
        ("raise PluginError('It is broken.')", True),
        ("raise UnknownName('head', name, [])", False),
        ("raise UnknownName('head', name, [], step='zoo list heads')", True),
        ("try: told(name)\n    except DataError as error: raise DataError(f'{name}: {error}')", True),
        ("try: told(name)\n    except DataError as error: raise DataError(without_step(str(error)))", False),
        ("try: told(name)\n    except OSError as error: raise DataError(f'{name}: {error}')", False),
    ],
)
def test_an_error_without_a_next_step_is_noticed(body: str, says: bool, code: Code) -> None:
    made = f"""
from zoo.errors import DataError, PluginError, UnknownName
STEP = "Next: add some."
def told(name): return f"There is no {{name}}.\\n{{STEP}}"
def check(name):
    {body}
"""
    own = Code({"zoo.errors": code.sources["zoo.errors"], "zoo.made": made})
    assert [module for module, _ in own.silent()] == ([] if says else ["zoo.made"])


def test_a_next_step_is_said_once() -> None:
    said = UnknownName("head", "linaer", ["linear"], step="zoo list heads")
    assert str(said) == "There is no head 'linaer'. Did you mean 'linear'?\nNext: zoo list heads"
    broken = PluginError("It is broken.")
    assert str(PluginError(str(broken))) == str(broken) == str(pickle.loads(pickle.dumps(broken)))
    assert without_step(str(broken)) == "It is broken."
    assert str(PluginError("It is broken.\nNext: mend it.")) == with_step("It is broken.\nNext: mend it.", "no")
