"""The house keeps its floors: imports fall, rooms are known, files and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import phases
import pytest

PACKAGE = Path(__file__).parent.parent / "augstream"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_FILES = 30

# Every room has a floor. A new file is entered here first, and thereby thought about: what does it know?
FLOORS: dict[str, int] = {
    # 0 words: standard library and numpy
    "errors": 0, "seeding": 0,
    # 1 order: pure functions of numbers; no files, no processes
    "index": 1, "order": 1, "plan": 1, "state": 1, "layout": 1, "mixing": 1,
    # 2 bytes: files, tars, encoded images
    "decode": 2, "digest": 2, "indexing": 2, "shards": 2,
    # 3 pixels, and whatever seeds them: and every file of transforms/
    "ambient": 3, "augment": 3, "collate": 3, "epochs": 3, "foreign": 3,
    # 4 engine: torch, processes
    "batching": 4, "device": 4, "dataset": 4, "loader": 4, "mixture": 4,
    "ranks": 4, "stream": 4,
    # 5 doors
    "__init__": 5, "__main__": 5, "cli": 5, "pytorch": 5, "testing": 5,
}  # fmt: skip
FOLDERS = {
    "images": 2,
    "sources": 2,
    "tars": 2,
    "transforms": 3,
    "ledgers": 4,
    "workers": 4,
    "tools": 5,
    "wds": 6,
}  # the last is inside other people's pipelines

# What each floor may import from elsewhere: when it is imported, and besides, inside the functions that need it.
EAGER: dict[int, set[str]] = {
    0: {"numpy"},
    1: {"numpy"},
    2: {"numpy", "cv2", "PIL"},
    3: {"numpy", "cv2", "stringzilla"},  # the last is an extra, and does without
    4: {"numpy", "torch", "xxhash"},
    5: {"numpy", "cv2"},
    6: {"numpy", "torch", "webdataset"},
}
LAZY: dict[int, set[str]] = {
    0: set(),
    1: set(),
    2: {"fsspec", "aiohttp", "tqdm", "webdataset", "braceexpand"},
    3: {"torch", "torchvision", "albumentations", "yaml", "PIL", "scipy"},
    4: {"webdataset", "tqdm"},
    5: {"cv2", "fsspec", "PIL", "torch", "tqdm", "webdataset", "yaml"},
    6: {"PIL"},
}
# Floors 0 and 1 are arithmetic: no files, no processes, no clock, no environment.
IMPURE = {
    "asyncio", "concurrent", "fcntl", "glob", "io", "mmap", "multiprocessing", "os", "pathlib", "secrets", "shutil",
    "signal", "socket", "subprocess", "sys", "tarfile", "tempfile", "threading", "time",
}  # fmt: skip


# The one circle: a transform called alone is a Compose of one, and a Compose knows transforms.
CIRCLES = {("transforms.base", "transforms.compose")}


@dataclass(frozen=True)
class Import:
    """One imported module, as a dotted name; `lazy` inside a function."""

    target: str
    lazy: bool
    line: int


@dataclass(frozen=True)
class Room:
    """One file of the package, read but not run."""

    name: str
    floor: int
    tree: ast.Module
    num_lines: int
    imports: tuple[Import, ...]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def floor_of(name: str) -> int | None:
    folder, dot, _ = name.partition(".")
    return FOLDERS.get(folder) if dot else FLOORS.get(name)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports_in(name: str, node: ast.AST, *, lazy: bool) -> list[Import]:
    """All imports below `node`, those for the type checker alone left out."""
    found: list[Import] = []
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        if isinstance(child, ast.Import):
            found += [Import(alias.name, lazy, child.lineno) for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            found += [Import(target, lazy, child.lineno) for target in resolved(name, child)]
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        found += imports_in(name, child, lazy=lazy or inside)
    return found


def resolved(name: str, node: ast.ImportFrom) -> list[str]:
    """The modules an import statement reaches: ``from . import order`` reaches order, not the package's door."""
    if node.level == 0:
        return [node.module or ""]
    parts = ["augstream", *name.split(".")]
    base = ".".join(parts[: len(parts) - node.level] + ([node.module] if node.module else []))
    below = [f"{base}.{alias.name}" for alias in node.names]
    known = {f"augstream.{module}".removesuffix(".__init__") for module in MODULES}
    return [target for target in below if target in known] or [base]


def read_room(name: str) -> Room:
    text = MODULES[name].read_text(encoding="utf-8")
    tree = ast.parse(text)
    floor = floor_of(name)
    assert floor is not None, f"enter {name} in FLOORS first: which floor does it belong to?"
    return Room(name, floor, tree, text.count("\n"), tuple(imports_in(name, tree, lazy=False)))


ROOMS = [name for name in MODULES if floor_of(name) is not None]


def own_target(target: str) -> str | None:
    """The room of this package that an import reaches, or None if it is another package's."""
    if target.split(".", maxsplit=1)[0] != "augstream":
        return None
    inner = target.removeprefix("augstream").removeprefix(".")
    for name in (inner, f"{inner}.__init__".removeprefix(".")):
        if name in MODULES:
            return name
    return None


def test_every_file_is_in_a_known_room() -> None:
    assert set(MODULES) - set(ROOMS) == set(), "enter the new file in FLOORS: which floor does it belong to?"
    assert not any(name.split(".")[-1] in {"utils", "helpers", "misc", "common"} for name in MODULES)


def test_the_house_is_flat_and_small() -> None:
    assert {path.parent.name for path in MODULES.values()} <= {"augstream", *FOLDERS}
    assert sum("." not in name for name in MODULES) < MAX_FILES


@pytest.mark.parametrize("name", ROOMS)
def test_imports_fall(name: str) -> None:
    room = read_room(name)
    for found in room.imports:
        own = own_target(found.target)
        if own is not None:
            target_floor = floor_of(own)
            assert target_floor is not None
            assert target_floor <= room.floor, f"{name}:{found.line} imports {own} from a floor above"
        else:
            assert not found.target.startswith("augstream"), (
                f"{name}:{found.line}: there is no {found.target}"
            )


@pytest.mark.parametrize("name", ROOMS)
def test_third_parties_stay_on_their_floors(name: str) -> None:
    room = read_room(name)
    for found in room.imports:
        top = found.target.split(".")[0]
        if top in sys.stdlib_module_names or top == "augstream":
            assert room.floor > 1 or top not in IMPURE, (
                f"{name}:{found.line} imports {top}: floors 0 and 1 are pure"
            )
            continue
        allowed = EAGER[room.floor] | (LAZY[room.floor] if found.lazy else set())
        when = "inside a function" if found.lazy else "when it is imported"
        assert top in allowed, (
            f"{name}:{found.line} imports {top} {when}; floor {room.floor} may {sorted(allowed)}"
        )


def test_rooms_import_each_other_without_a_circle() -> None:
    graph = {
        name: {
            own for found in read_room(name).imports if (own := own_target(found.target)) not in (None, name)
        }
        for name in ROOMS
    }
    for name, inside_a_function in CIRCLES:
        graph[name].discard(inside_a_function)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", ROOMS)
def test_files_and_functions_stay_small(name: str) -> None:
    room = read_room(name)
    assert room.num_lines <= MAX_FILE_LINES, f"{name} has {room.num_lines} lines"
    for node in ast.walk(room.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = function_lines(node)
            assert lines <= MAX_FUNCTION_LINES, f"{name}:{node.lineno} {node.name} has {lines} lines"


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function, its docstring aside."""
    first = node.body[0]
    has_docstring = ast.get_docstring(node) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


@pytest.mark.parametrize("name", ROOMS)
def test_no_room_keeps_state_or_reads_the_world_when_imported(name: str) -> None:
    room = read_room(name)
    for node in ast.walk(room.tree):
        assert not isinstance(node, ast.Global), f"{name}:{node.lineno}: no module-level mutable state"
    for statement in room.tree.body:
        assert not isinstance(statement, (ast.For, ast.While, ast.With)), (
            f"{name}:{statement.lineno} runs code"
        )
        harmless = not isinstance(statement, ast.Expr) or isinstance(statement.value, ast.Constant)
        assert harmless or ast.unparse(statement).endswith(".setflags(write=False)"), (
            f"{name}:{statement.lineno} calls something when imported"
        )


@pytest.mark.parametrize("name", [name for name in ROOMS if (floor_of(name) or 0) <= 1])
def test_the_order_opens_no_file(name: str) -> None:
    calls = [node.func for node in ast.walk(read_room(name).tree) if isinstance(node, ast.Call)]
    named = {func.id for func in calls if isinstance(func, ast.Name)}
    methods = {func.attr for func in calls if isinstance(func, ast.Attribute)}
    assert named.isdisjoint({"open", "exec", "eval", "print", "input", "hash"})
    assert methods.isdisjoint({"tofile", "fromfile", "memmap", "save", "load", "read_text", "write_text"})


@pytest.mark.processes
def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, augstream; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    loaded = set(ran.stdout.split())
    assert "augstream" in loaded
    assert loaded.isdisjoint(
        chain({"torch", "webdataset", "albumentations", "torchvision", "fsspec", "scipy"})
    )


# The rules above must be able to fail.


def test_the_rules_see_what_they_forbid() -> None:
    source = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .loader import Loader\n"
        "from . import order\nfrom .stream import Stream\nimport torch.nn\n"
        "def f():\n    from ..shards import read\n"
    )
    found = imports_in("transforms.base", ast.parse(source), lazy=False)
    assert [(item.target, item.lazy) for item in found] == [
        ("typing", False),
        ("augstream.transforms", False),
        ("augstream.transforms.stream", False),
        ("torch.nn", False),
        ("augstream.shards", True),
    ]
    assert [
        item.target for item in imports_in("plan", ast.parse("from . import order, state"), lazy=False)
    ] == [
        "augstream.order",
        "augstream.state",
    ]
    assert own_target("augstream.order") == "order"
    assert own_target("augstream") == "__init__"
    assert own_target("augstream.transforms") == "transforms.__init__"
    assert own_target("augstreams") is None
    (function,) = ast.parse('def f():\n    """One.\n\n    two\n    """\n    return 1\n').body
    assert isinstance(function, ast.FunctionDef)
    assert function_lines(function) == 2


def test_the_quick_phase_names_files_that_are_there() -> None:
    assert {path.name for path in Path(__file__).parent.iterdir()} >= phases.FILES
