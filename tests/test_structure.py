"""The house rules that a machine can hold (docs/design.md)."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "pathtune"
SOURCES = sorted(
    p
    for folder in ("python", "csrc", "tests", "bench", "demo")
    for p in (ROOT / folder).rglob("*")
    if p.suffix in {".py", ".pyi", ".cpp", ".hpp", ".inl", ".cu"}
)
# Layers, each importing only from itself and those before it; see docs/design.md.
LAYERS = [
    {"errors", "options", "_version", "files", "forms", "printed", "watching", "processes"},
    {"tables", "reference", "plots"},
    {"ops", "layers"},
    {"data"},
    {"adaptations"},
    {"backbone"},
    {"model", "losses"},
    {"adapting"},
    {"backbones", "adapter_checks", "adapter_file", "adapter_tools", "atomic_energies", "conventions", "evaluation",
     "moments", "calculator", "loading"},
    {"energy_offsets"},
    {"training", "benchmark"},
    {"guidance", "comparing", "demo", "importance"},
    {"report"},
    {"__init__"},
    {"cli", "__main__"},
]
PACKAGES_OF_BACKBONES = {"mace", "e3nn", "sevenn", "nequip"}


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(path):
    """Modules that a file imports anywhere, dotted; those for type checkers only do not count.

    `from pathtune import name` is an import of the module pathtune.name where there is one, else of the facade.
    """
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not is_type_checking(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if is_module(name) else node.module for name in names)


def is_module(name):
    place = PACKAGE.parent.joinpath(*name.split("."))
    return place.is_dir() or any(place.with_suffix(suffix).exists() for suffix in (".py", ".pyi"))


def layer_of(part):
    return next((i for i, names in enumerate(LAYERS) if part in names), None)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_the_layers(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    mine = layer_of(part)
    assert mine is not None, f"{part} stands in no layer: add it to LAYERS and to docs/design.md"
    for module in imports(path):
        top, *rest = module.split(".")
        if top in PACKAGES_OF_BACKBONES:
            assert part == "backbones", f"{path} imports {module}: only backbones may"
        if top != "pathtune":
            continue
        assert rest, f"{path} imports the facade: import the module that defines the name"
        theirs = layer_of(rest[0])
        if rest[-1] == "_core":
            assert part == "ops", f"{path} imports _core: only ops may"
        lazy = part == "loading" and rest[0] == "backbones"
        assert theirs is not None, f"{module} stands in no layer"
        assert theirs <= mine or lazy, f"{path} (layer {mine}) imports {module} (layer {theirs})"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_under_400_lines_and_functions_under_60(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} is too long"


def n_parameters(function):
    given = function.args
    named = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
    return named + bool(given.vararg) + bool(given.kwarg)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_have_nine_parameters_at_most_and_the_formatter_lays_out_all_code(path):
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert n_parameters(node) <= 9, f"{node.name} has {n_parameters(node)} parameters"
    assert "# fmt: skip" not in text


def test_only_bindings_include_pybind11_and_nothing_includes_torch():
    for path in (ROOT / "csrc").rglob("*"):
        if path.suffix in {".cpp", ".hpp", ".inl", ".cu"}:
            included = [line for line in path.read_text().splitlines() if line.startswith("#include")]
            assert not any("torch" in line for line in included), path
            if any("pybind11" in line for line in included):
                assert path.name in {"bindings.cpp", "cuda_bindings.cpp", "bindings.hpp"}, path


def test_importing_any_module_does_no_work():
    """Top-level statements are definitions, imports, constants and registrations: no loops, files or threads."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Expr,
                       ast.If)  # fmt: skip
            assert isinstance(node, allowed), f"{path}:{node.lineno}"
            runs_as_script = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
            assert not isinstance(node, ast.If) or is_type_checking(node) or runs_as_script, f"{path}:{node.lineno}"


def test_no_unfinished_work_is_marked():
    words = ["TO" + "DO", "FIX" + "ME", "XX" + "X"]
    for path in SOURCES:
        assert not any(word in path.read_text() for word in words), path


def test_the_tree_is_clean_of_generated_files():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not [f for f in files if f.endswith((".so", ".pyc", ".o", ".model"))]


def test_every_table_in_readme_and_results_is_what_the_committed_json_says():
    command = [sys.executable, str(ROOT / "bench" / "tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
