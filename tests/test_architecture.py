"""The house rules that a machine can check: who imports whom, sizes, documented and annotated names, clean files."""

import ast
import math
import statistics
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))
LAYERS = {"core": 0, "data": 1, "nn": 1, "studies": 3, "cli": 4}
ROOM = 2

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    """First part below gleanings; the private modules beside cli.py are parts of it."""
    first = [*module.split("."), ""][1]
    return "cli" if first.startswith("_") and first != "__version__" else first


def imports(tree: ast.Module, module: str) -> Iterator[str]:
    """Dotted names of all that the tree imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) + "." if node.level else ""
            yield from (f"{base}{node.module or ''}.{alias.name}".replace("..", ".") for alias in node.names)


def misplaced(tree: ast.Module, module: str) -> list[str]:
    """Imports that go against `core <- data, nn <- rooms <- studies <- cli`, or into another room's private part."""
    here = room(module)
    wrong = []
    for name in imports(tree, module):
        there = room(name)
        if not name.startswith("gleanings.") or there in (here, "__version__"):
            continue
        if LAYERS.get(there, ROOM) >= LAYERS.get(here, ROOM) or any(part.startswith("_") for part in name.split(".")):
            wrong.append(f"{module} imports {name}")
    return wrong


def unsafe(tree: ast.Module, module: str) -> list[str]:
    """Whatever can run code that stands in a file or a string."""
    modules = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    found = [f"{module} imports {name}" for name in imports(tree, module) if name.split(".")[0] in modules]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            found.append(f"{module}:{node.lineno} calls {node.func.id}")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and getattr(node.value, "value", 1):
            found.append(f"{module}:{node.value.lineno} allows pickle")
    return found


def public(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Public classes, functions and methods with their dotted names."""
    for node in body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            name = f"{prefix}.{node.name}"
            yield name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, name)


def undocumented(tree: ast.Module, module: str) -> list[str]:
    """Modules and public names without a docstring."""
    nodes = [(module, tree), *public(tree.body, module)]
    return [name for name, node in nodes if not ast.get_docstring(node)]


def untyped(tree: ast.Module, module: str) -> list[str]:
    """Arguments and results of public functions without an annotation."""
    found = []
    for name, node in public(tree.body, module):
        if isinstance(node, Function):
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            missing = [a.arg for a in every if a and not a.annotation and a.arg not in ("self", "cls")]
            found += [f"{name}({argument})" for argument in missing]
            found += [f"{name} ->"] * (node.returns is None)
    return found


@pytest.mark.parametrize("rule", [misplaced, unsafe, undocumented, untyped])
def test_every_module_keeps(rule):
    assert SOURCES
    assert [line for path in SOURCES for line in rule(parse(path), module_name(path))] == []


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (misplaced, "gleanings.core.a", "from gleanings.data import images"),
        (misplaced, "gleanings.data.a", "import gleanings.nn.mlp"),
        (misplaced, "gleanings.estimators.a", "def f():\n    from gleanings.offline import cql"),
        (misplaced, "gleanings.estimators.a", "from gleanings.core import _parts"),
        (misplaced, "gleanings.estimators.a", "from gleanings.core.loop import _step"),
        (misplaced, "gleanings.estimators.a", "from ..offline import cql"),
        (misplaced, "gleanings.studies.a", "from gleanings import cli"),
        (misplaced, "gleanings.studies.a", "from gleanings import _fetch"),
        (unsafe, "gleanings.core.a", "from pickle import loads"),
        (unsafe, "gleanings.core.a", "eval('1')"),
        (unsafe, "gleanings.core.a", "load(f, allow_pickle=True)"),
        (undocumented, "gleanings.core.a", "'''Doc.'''\nclass A:\n    '''Doc.'''\n    def b(self): ..."),
        (untyped, "gleanings.core.a", "def f(x: int, *, y): ..."),
    ],
)
def test_the_rules_see_a_violation(rule, module: str, source: str):
    assert rule(ast.parse(source), module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gleanings.studies.a", "from gleanings.estimators import expect\nfrom gleanings.core.study import Study"),
        ("gleanings.cli", "from gleanings import __version__, studies"),
        ("gleanings._fetch", "from gleanings.cli import choose\nfrom gleanings._doctor import doctor"),
        ("gleanings.core.study", "from gleanings.core._parts import Parts\nimport json"),
    ],
)
def test_the_table_allows_what_it_should(module: str, source: str):
    assert misplaced(ast.parse(source), module) == []


def lines(paths: list[Path]) -> list[int]:
    return [len(path.read_text(encoding="utf-8").splitlines()) for path in paths]


def test_files_are_short():
    sizes = dict(zip(SOURCES + TESTS + SCRIPTS, lines(SOURCES + TESTS + SCRIPTS), strict=True))
    assert statistics.median(lines(SOURCES)) <= 170
    assert {path.name: size for path, size in sizes.items() if size > 500} == {}


def test_functions_are_short():
    lengths = {
        f"{path.name}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(parse(path))
        if isinstance(node, Function)
    }
    ordered = sorted(lengths.values())
    assert statistics.median(ordered) <= 15
    assert ordered[math.ceil(0.95 * len(ordered)) - 1] <= 60
    assert {name: length for name, length in lengths.items() if length > 100} == {}


def test_there_is_as_much_test_as_there_should_be():
    assert 0.6 <= sum(lines(TESTS)) / sum(lines(SOURCES)) <= 1.0


def test_few_runtime_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(project["dependencies"]) <= 14
    assert all("<" not in dependency and "==" not in dependency for dependency in project["dependencies"])


def test_constraints_are_names_and_versions():
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, separator, version = line.partition("==")
        assert name.replace("-", "").replace("_", "").replace(".", "").isalnum(), line
        assert (separator, version[:1].isdigit()) == ("==", True), line
        assert "gleanings" not in line


def tracked() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git working tree")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_machine_or_a_registry():
    # Put together from pieces, so that this file does not match.
    folders = ["/".join(["", name, ""]) for name in ("work", "root", "home")]
    hosts = [
        ".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("debian", "org"), ("npmjs", "org"))
    ]
    patterns = [pattern.encode() for pattern in folders + hosts]
    found = [f"{path}: {p.decode()}" for path in tracked() for p in patterns if p in path.read_bytes()]
    assert found == []


def test_no_file_is_a_drawer():
    assert [path for path in tracked() if path.stem in ("utils", "util", "helpers", "common", "misc")] == []
