"""The rules of the house: imports run one way, rooms say what they are for, sizes have bounds.

What a rule lets through is listed with the reason beside it.
"""

import ast
import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "safe_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
# Each room may import the rooms after it, and none before it.
ROOMS = (
    "commands", "estimator", "main", "report", "configs", "experiment", "classifier", "tuning",
    "methods", "bank", "backbones", "clip", "siglip", "checkpoints", "data", "runtime",
)  # fmt: skip
# A report is made from rows alone: these modules of rooms above it are declarations, without JAX.
REPORT_READS = {"safe_jax.experiment.results", "safe_jax.methods.catalogue"}
# scikit-learn's estimators store all that they are told in the constructor.
MANY_PARAMETERS = {("safe_jax/estimator/estimator.py", "__init__")}
LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 300, 60, 6


def tree(file):
    return ast.parse(file.read_text())


def functions(file):
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    return [node for node in ast.walk(tree(file)) if isinstance(node, kinds)]


def named(file):
    return str(file.relative_to(PACKAGE.parent))


def imported(file):
    """The modules of the package that a file imports, `TYPE_CHECKING` imports left out."""
    module = tree(file)
    for node in ast.walk(module):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("safe_jax"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                path = PACKAGE.parent / whole.replace(".", "/")
                is_module = path.is_dir() or path.with_suffix(".py").exists()
                yield whole if is_module else node.module


def room(module):
    return module.split(".")[1]


@pytest.mark.parametrize("file", FILES, ids=named)
def test_imports_run_one_way(file):
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    if parts[0] in ("__init__", "__main__"):
        return
    upward = [
        module
        for module in imported(file)
        if ROOMS.index(room(module)) < ROOMS.index(parts[0]) and module not in REPORT_READS
    ]
    assert upward == []


@pytest.mark.parametrize("name", [name for name in ROOMS if name != "main"])
def test_a_room_says_what_it_is_for(name):
    text = ast.get_docstring(tree(PACKAGE / name / "__init__.py"))
    assert text
    assert len(text.splitlines()) >= 2


def test_nothing_is_too_large():
    too_large = []
    for file in FILES:
        if (lines := len(file.read_text().splitlines())) > LONGEST_FILE:
            too_large.append(f"{named(file)}: {lines} lines")
        for function in functions(file):
            lines = function.end_lineno - function.lineno + 1
            if lines > LONGEST_FUNCTION:
                too_large.append(f"{named(file)}, {function.name}: {lines} lines")
            arguments = function.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
            count -= bool(arguments.args) and arguments.args[0].arg in ("self", "cls")
            if count > MOST_PARAMETERS and (named(file), function.name) not in MANY_PARAMETERS:
                too_large.append(f"{named(file)}, {function.name}: {count} parameters")
    assert too_large == []


def test_public_functions_are_annotated():
    bare = []
    for file in FILES:
        module = tree(file)
        classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
        for owner in (module, *classes):
            if getattr(owner, "name", "").startswith("_"):
                continue
            for function in owner.body:
                if not isinstance(function, ast.FunctionDef) or function.name.startswith("_"):
                    continue
                arguments = function.args.posonlyargs + function.args.args
                arguments += function.args.kwonlyargs
                bare += [
                    f"{named(file)}, {function.name}({argument.arg})"
                    for argument in arguments
                    if argument.annotation is None and argument.arg not in ("self", "cls")
                ]
                if function.returns is None:
                    bare.append(f"{named(file)}, {function.name} returns")
    assert bare == []


def test_every_promise_of_reliability_has_its_test():
    """docs/reliability.md names them as `file::test`."""
    root = PACKAGE.parent
    page = (root / "docs" / "reliability.md").read_text()
    named_tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named_tests) > 20
    missing = [
        f"{file}::{name}"
        for file, name in named_tests
        if not (root / file).exists()
        or name not in {function.name for function in functions(root / file)}
    ]
    assert missing == []
