"""The rules of the house (docs/design.md): which room may import which, how long a file may be, what must not be in it."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("data", "diffusion", "optim", "saving", "kernels")
ROOMS = {
    "library.args": 0,
    **{f"library.{stage}": 1 for stage in STAGES},
    "library.sweep": 1,
    "library.models": 2,
    "networks": 2,
    "library.training": 3,
    "library.model_util": 4,
    "library.sdxl_model_util": 4,
    "library.train_util": 4,
    "library": 0,
}
"""Room -> floor. Modules directly in `library` are the ground; the rooms below it come first."""
ENTRY_FLOOR = 5
SAME_FLOOR = {("networks", "library.models"), ("library.args", "library"), ("library.sweep", "library.saving")}
"""Imports within a floor that are allowed: adapters read the key tables of the families, sweeps the text in preview pictures."""
HEAVY = {"torch", "numpy", "cv2", "PIL", "diffusers", "transformers", "accelerate", "safetensors", "matplotlib", "tensorboard"}
MAX_FILE, MAX_FUNCTION, MAX_NESTING = 400, 60, 4
BLOCKS = (ast.For, ast.AsyncFor, ast.While, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PLACES = re.compile(r"(?<![\w.$}])/(work|root|home|Users|tmp/venvs)/\w|farm-\w|\.library/")


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def program_files() -> list[Path]:
    """Everything but tests: entry scripts, rooms, examples."""
    folders = [ROOT / name for name in ("library", "networks", "examples", "bench", "tools", "finetune")]
    return sorted([*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))])


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    """The room a module of ours lies in; None for an entry script or a stranger."""
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), None)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of the file, those inside functions too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{shown(path)}:{node.lineno}: write imports in full, from {'.' * node.level} is relative"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_tool(path: Path) -> bool:
    """A program in networks/ that is run by itself may read a command line, as an entry script does."""
    return path.parent.name == "networks" and "__main__" in path.read_text(encoding="utf-8")


def wrong_import(importer: str, imported: str) -> str | None:
    """Why one room must not import the other; None if it may."""
    if importer == imported or (importer, imported) in SAME_FLOOR:
        return None
    if imported == "library.args":
        return "options are read by entry scripts alone"
    if ROOMS[importer] == ROOMS[imported]:
        return "both stand on the same floor"
    return f"floor {ROOMS[importer]} must not import floor {ROOMS[imported]}" if ROOMS[importer] < ROOMS[imported] else None


def test_imports_point_down_only():
    wrong = []
    for path in program_files():
        importer = room_of(module_name(path))
        if importer is None or is_tool(path):
            continue
        for line, module in imports(path):
            imported = room_of(module)
            reason = imported and wrong_import(importer, imported)
            if reason:
                wrong.append(f"{shown(path)}:{line}: imports {module}: {reason}")
    assert not wrong, "\n".join(wrong)


def test_the_recipe_knows_networks_by_name_only():
    files = (ROOT / "library" / "training").rglob("*.py")
    wrong = [f"{shown(path)}:{line}" for path in files for line, module in imports(path) if room_of(module) == "networks"]
    assert not wrong, f"networks are loaded by the name given in --network_module: {wrong}"


def test_nothing_inside_uses_the_doors_for_outsiders():
    doors = {room for room, floor in ROOMS.items() if floor == 4}
    wrong = [
        f"{shown(path)}:{line}: {module}"
        for path in program_files()
        for line, module in imports(path)
        if room_of(module) in doors and room_of(module_name(path)) not in doors
    ]
    assert not wrong, "\n".join(wrong)


def test_options_are_declared_without_heavy_libraries():
    files = (ROOT / "library" / "args").rglob("*.py")
    wrong = [f"{shown(path)}:{line}: {module}" for path in files for line, module in imports(path) if module.split(".")[0] in HEAVY]
    assert not wrong, f"--help must be instant: {wrong}"


def test_help_is_printed_without_torch():
    program = "import sys, train_network; train_network.setup_parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_package_files_are_empty():
    full = [shown(path) for path in program_files() if path.name == "__init__.py" and path.read_text(encoding="utf-8").strip()]
    assert not full


def test_files_open_by_saying_what_they_are():
    silent = [shown(path) for path in program_files() if path.name != "__init__.py" and ast.get_docstring(tree_of(path)) is None]
    assert not silent


def test_files_are_short():
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in program_files()}
    assert not {name: length for name, length in lengths.items() if length >= MAX_FILE}


def test_functions_are_short():
    long = [
        f"{shown(path)}:{node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in program_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, FUNCTIONS) and node.end_lineno - node.lineno + 1 > MAX_FUNCTION
    ]
    assert not long, "\n".join(long)


def nesting(node: ast.AST, depth: int = 0) -> int:
    """How many blocks deep the deepest line below `node` lies. An elif is as deep as its if."""
    deepest = depth
    for name, field in ast.iter_fields(node):
        for child in field if isinstance(field, list) else [field]:
            is_elif = isinstance(node, ast.If) and name == "orelse" and isinstance(child, ast.If) and len(field) == 1
            if isinstance(child, FUNCTIONS):
                continue
            if isinstance(child, ast.AST):
                deepest = max(deepest, nesting(child, depth + (isinstance(child, BLOCKS) and not is_elif)))
    return deepest


def test_code_is_not_nested_deeper_than_four_blocks():
    deep = [
        f"{shown(path)}:{node.lineno}: {node.name} goes {nesting(node)} blocks deep"
        for path in program_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, FUNCTIONS) and nesting(node) > MAX_NESTING
    ]
    assert not deep, "\n".join(deep)


def test_nesting_is_counted_in_blocks():
    source = "def f():\n for a in b:\n  if a:\n   pass\n  elif b:\n   with c:\n    pass\n"
    assert nesting(ast.parse(source).body[0]) == 3


def test_no_error_is_swallowed_whole():
    wrong = [
        f"{shown(path)}:{node.lineno}"
        for path in program_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
    ]
    assert not wrong, f"name the errors that are expected: {wrong}"


def test_the_linter_has_no_complaint():
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("ruff is not installed: pip install -r requirements-test.txt")
    command = [sys.executable, "-m", "ruff", "check", "--output-format=concise", "."]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def files_of_the_project() -> list[Path]:
    """What git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git cannot list the files here: {error}")
    return [path for path in (ROOT / name for name in listed.split("\0") if name) if path.is_file()]


def test_no_file_names_a_place_on_one_machine():
    found = []
    for path in files_of_the_project():
        if path == Path(__file__).resolve() or b"\0" in path.read_bytes()[:8192]:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{shown(path)}: {match.group()}" for match in PLACES.finditer(text)]
    assert not found, "\n".join(found)
