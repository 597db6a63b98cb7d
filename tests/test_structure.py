"""The plan of the packages: which imports which, which names are public, and what an import costs."""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

import frcnn
from frcnn.cli import VERBS

ROOT = Path(__file__).parent.parent
FACE = ROOT / "src" / "frcnn"
ROOMS = ("benchmarks", "exporter", "plugins", "runtime")
MAY_IMPORT = {
    "face": {"face"},
    "plugins": {"face", "plugins"},
    "exporter": {"face", "plugins", "exporter"},
    "runtime": {"face", "plugins", "runtime"},
    "benchmarks": {"face", *ROOMS},
}
FACE_MAY_IMPORT: dict[str, set[str]] = {
    # frcnn itself, by its modules and its sub-packages spec and files
    "": {"_version"},
    "_version": set(),
    "errors": set(),
    "log": {"errors"},
    "spec": {"errors"},
    "engine_spec": {"spec"},
    "files": {"errors", "spec"},
    "console": {"errors", "files"},
    "options": {"errors", "spec"},
    "packages": {"errors"},
    "processors": set(),
    "cli": {"_version", "console", "errors", "files", "log", "processors"},
    "completion": {"cli", "files"},
    "__main__": {"cli"},
}
ROOM_MAY_IMPORT = {
    # Rooms inside the big rooms. "" are the modules of the big room itself; commands may import every room beside them.
    "exporter": {
        "checkpoint": {"model"},
        "model": set(),
        "graph": {"model"},
        "engine": {"graph"},
    },
    "runtime": {
        "images": set(),
        "dataset": {"images"},
        "model_files": set(),
        "host": {"model_files", "images"},
        "gpu": {"images"},
        "engines": {"gpu", "model_files"},
        "formats": {"dataset"},
        "results": {"dataset", "images"},
        "streaming": {"images"},
        "doctor": set(),
        "ray": {"dataset", "images", "model_files", "results"},
        "triton": {"host", "images", "model_files"},
    },
    "benchmarks": {
        "report": set(),
        "candidates": {"report"},
        "parity": {"candidates"},
        "timing": {"candidates", "parity", "profile", "report"},
        "accuracy": {"parity"},
        "profile": {"candidates", "report"},
        "tuning": {"candidates", "parity", "timing"},
        "quantization": {"accuracy", "parity", "report", "timing"},
        "trial": {"accuracy", "candidates", "parity", "report", "timing"},
    },
    "plugins": {
        "cuda": {"preprocess"},
        "tensorrt": {"cuda", "roi_pooling"},
        "region_proposals": {"boxes"},
        "box_detections": {"boxes"},
        "boxes": set(),
        "multiscale_roi_align": {"roi_pooling"},
        "multiscale_roi_pool": {"roi_pooling"},
        "roi_pooling": set(),
        "preprocess": set(),
    },
}
MAX_MODULES = 12
DEPRECATED = {"frcnn.engine_spec": "frcnn.spec.engine"}
HEAVY = [
    "cuda",
    "cupy",
    "faster_coco_eval",
    "jinja2",
    "matplotlib",
    "onnxruntime",
    "onnxscript",
    "nncf",
    "openvino",
    "pandas",
    "pillow_heif",
    "pyarrow",
    "pycuda",
    "ray",
    "safetensors",
    "sklearn",
    "skimage",
    "supervision",
    "tensorrt",
    "tensorrt_rtx",
    "torch",
    "torchvision",
    "yaml",
]
PUBLIC = {
    "frcnn": "__version__",
    "frcnn.benchmarks": "QuantizationReport quantize_onnx",
    "frcnn.cli": "VERBS main",
    "frcnn.errors": """
        ArtifactError CheckpointError ExportError FrcnnError ImageError ImageSizeError KernelError
        MissingDependencyError OutputError UnsupportedModelError UsageError did_you_mean one_line printable
        without_credentials
    """,
    "frcnn.exporter": "MultiScaleRoIPool build_engine export_onnx load_checkpoint",
    "frcnn.files": """
        decode_text file_sha256 missing_file native_path read_small_text replacing standard_output temporary_folder
        writable_file writable_folder write_text
    """,
    "frcnn.plugins": "DOMAIN OPERATORS VERSION OperatorSpec",
    "frcnn.plugins.tensorrt": "callback_error register",
    "frcnn.runtime": "Detection Detections Detector RGBImage Slicing annotate frames",
    "frcnn.runtime.formats": """
        FORMATS from_coco from_cvat from_fiftyone from_label_studio from_yolo to_cvat to_fiftyone to_label_studio
        to_yolo write
    """,
    "frcnn.runtime.ray": "DetectedDataset RayDetector detect_dataset read_detections write_coco",
    "frcnn.spec": """
        BACKGROUND LONGEST_MANIFEST_BYTES MANIFEST_KEY PRECISIONS SCHEMA_VERSION CheckpointOptions Manifest ModelSpec
        NonNegative PoolerKind PoolerSpec Positive Precision PrintableText Quantization RPNSpec Record ResizeRule
        RoIHeadsSpec Size TransformSpec full_labels read_versioned
    """,
    "frcnn.spec.engine": """
        ENGINE_SCHEMA_VERSION INPUTS MANIFEST_PART OUTPUTS PART_NAME PRECISION_PART SUFFIX TARGETS TENSORRT_ELEMENTS
        EngineManifest EngineStep EngineTensor MemoryNeeds OperatorStep Part PrecisionRecord Profile Range Target
        kernel_part
    """,
}


def sources() -> Iterator[tuple[str, Path]]:
    """Give (room, file) of every module; the files of src/frcnn itself are the face."""
    for folder in (FACE, FACE / "files", FACE / "spec"):
        for file in sorted(folder.glob("*.py")):
            yield "face", file
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            yield room, file


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Give every module that a file imports anywhere, under ``if TYPE_CHECKING`` and inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import, line {node.lineno}"
            # `from frcnn import plugins` names a room too
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    parts = module.split(".")
    assert parts[0] not in ROOMS, f"import frcnn.{module}, not {module}"
    assert parts[0] not in ("maintenance", "tests", "support"), f"{module} is not in the wheel"
    if parts[0] != "frcnn":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "face"


def module_name(room: str, file: Path) -> str:
    folder = FACE if room == "face" else ROOT / room
    parts = ["frcnn", *([] if room == "face" else [room]), *file.relative_to(folder).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(room, file): file for room, file in sources()}
TREES = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in MODULES.items()}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_imports_only_what_the_plan_allows(module: str) -> None:
    room = room_of(module)
    assert room is not None
    imported = {name: room_of(name) for name in imported_modules(TREES[module])}
    forbidden = {name for name, owner in imported.items() if owner is not None and owner not in MAY_IMPORT[room]}
    assert not forbidden, f"{module}: {room} may import {sorted(MAY_IMPORT[room])} only"


def part_of_the_face(module: str) -> str:
    """Return the module or sub-package of the face; "" is ``frcnn`` itself, and the names that it defines."""
    part = module.partition(".")[2].partition(".")[0]
    return part if part in FACE_MAY_IMPORT else ""


@pytest.mark.parametrize("module", sorted(name for name in MODULES if room_of(name) == "face"))
def test_the_face_imports_only_downwards(module: str) -> None:
    part = part_of_the_face(module)
    assert part or module == "frcnn", f"{module} is not in the plan"
    imported = [name for name in imported_modules(TREES[module]) if room_of(name) == "face"]
    forbidden = [name for name in imported if part_of_the_face(name) not in {"", part, *FACE_MAY_IMPORT[part]}]
    assert not forbidden, f"{module} may import {sorted(FACE_MAY_IMPORT[part])} only"


def inner_room(module: str) -> str:
    """Return the sub-package of a module inside its big room; "" is the big room itself."""
    parts = module.split(".")
    folder = ROOT.joinpath(*parts[1:3])
    return parts[2] if len(parts) > 2 and folder.is_dir() else ""


@pytest.mark.parametrize("module", sorted(name for name in MODULES if inner_room(name) not in ("", "commands")))
def test_a_room_inside_imports_only_what_the_plan_allows(module: str) -> None:
    room, inside = room_of(module), inner_room(module)
    assert room in ROOM_MAY_IMPORT
    allowed = {"", inside, *ROOM_MAY_IMPORT[room][inside]}
    imported = [name for name in imported_modules(TREES[module]) if room_of(name) == room]
    forbidden = [name for name in imported if inner_room(name) not in allowed]
    assert not forbidden, f"{module}: {inside} may import {sorted(allowed)} only"


def test_the_plan_of_the_rooms_has_no_cycle_and_names_every_room() -> None:
    list(graphlib.TopologicalSorter(FACE_MAY_IMPORT).static_order())
    assert {"", *FACE_MAY_IMPORT} == {"", *(part_of_the_face(name) for name in MODULES if room_of(name) == "face")}
    for room, plan in ROOM_MAY_IMPORT.items():
        list(graphlib.TopologicalSorter(plan).static_order())
        folders = {file.parent.name for file in (ROOT / room).glob("*/__init__.py")}
        assert set(plan) == folders - {"commands"}


@pytest.mark.parametrize("folder", sorted({str(file.parent.relative_to(ROOT)) for _room, file in sources()}))
def test_a_folder_has_few_modules(folder: str) -> None:
    modules = [file for file in (ROOT / folder).glob("*.py") if file.name != "__init__.py"]
    assert len(modules) <= MAX_MODULES


def test_the_plan_finds_a_wrong_import() -> None:
    tree = ast.parse("def f():\n    import frcnn.exporter.graph.finish\n    from frcnn import runtime\n    import json")
    assert {room_of(module) for module in imported_modules(tree)} == {"exporter", "runtime", None}
    with pytest.raises(AssertionError, match="not in the wheel"):
        room_of("maintenance.kernels")
    assert part_of_the_face("frcnn.spec.engine.Range") == "spec"


def test_the_face_names_rooms_as_text_in_one_place_only() -> None:
    """``cli.VERBS`` names modules of the rooms for importlib: the one exception, so that verbs are found."""
    naming = [
        module
        for module, tree in TREES.items()
        if room_of(module) == "face"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(tuple(f"frcnn.{room}" for room in ROOMS))
    ]
    assert naming == ["frcnn.cli"] * sum(verb.module != "frcnn.completion" for verb in VERBS.values())


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_linked_into_the_namespace(room: str) -> None:
    """Without the links mypy reports a false green."""
    link = FACE / room
    assert link.is_symlink()
    assert link.readlink() == Path("../..") / room
    assert link.resolve() == ROOT / room


def test_nothing_else_is_linked() -> None:
    assert sorted(path.name for path in FACE.iterdir() if path.is_symlink()) == sorted(ROOMS)


def test_one_module_makes_the_core_of_openvino() -> None:
    assert [file.name for _, file in sources() if ".Core()" in file.read_text()] == ["dependencies.py"]


def test_every_folder_with_modules_is_a_package() -> None:
    """One without an ``__init__.py`` would be absent from the wheel."""
    folders = {file.parent for room, file in sources()}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_public_names(module: str) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__all__ == PUBLIC[module].split()
    assert all(getattr(loaded, name) is not None for name in loaded.__all__)


@pytest.mark.parametrize("old", sorted(DEPRECATED))
def test_a_former_name_of_a_module_gives_the_same_and_warns(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"^{old} is now {DEPRECATED[old]}$"):
        former = importlib.import_module(old)
    new = importlib.import_module(DEPRECATED[old])
    assert {name for name in vars(former) if not name.startswith("__")} == {*new.__all__, "warnings"}
    assert all(getattr(former, name) is getattr(new, name) for name in new.__all__)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_has_a_docstring(module: str) -> None:
    assert ast.get_docstring(TREES[module])


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_list_of_names_says_more_than_their_underscores(module: str) -> None:
    """``__all__`` is for what users import, and for names that a module passes on."""
    tree = TREES[module]
    listed = {name for node in tree.body if _assigns_all(node) for name in ast.literal_eval(node.value)}
    imported = {a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert not listed or listed & imported or module in {*PUBLIC, "frcnn.plugins.direct"}


def _assigns_all(node: ast.stmt) -> TypeGuard[ast.Assign]:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


BARE = """
import importlib, importlib.abc, json, sys
HEAVY = {heavy!r}
tried = []

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            tried.append(name)
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run_bare(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which no heavy package can be imported; ``tried`` lists what was asked for."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT / "src"), PYTHONWARNINGS="error")
    return subprocess.run(
        [sys.executable, "-c", BARE.format(heavy=HEAVY) + code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_public_packages_import_without_trying_a_heavy_one() -> None:
    done = run_bare(
        "import frcnn, frcnn.cli, frcnn.spec, frcnn.plugins, frcnn.runtime, frcnn.exporter, frcnn.benchmarks\n"
        "from frcnn.runtime import Detections, Detector\n"
        "assert not tried, tried\n"
        "assert not set(HEAVY) & set(sys.modules)\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_tries_no_heavy_package(verb: str) -> None:
    code = f"from frcnn.cli import main\ncode = main([{verb!r}, '--help'])\nassert not tried, tried\nsys.exit(code)"
    done = run_bare(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: frcnn {verb}")
    assert "--debug" in done.stdout


def test_every_module_imports_in_a_bare_environment_or_misses_a_heavy_package_only() -> None:
    code = """
outcomes = {}
for name in NAMES:
    try:
        importlib.import_module(name)
        outcomes[name] = ""
    except ModuleNotFoundError as error:
        outcomes[name] = str(error.name)
print(json.dumps(outcomes))
"""
    names = [name for name in MODULES if name not in ("frcnn.__main__", *DEPRECATED)]
    done = run_bare(f"NAMES = {names!r}\n{code}")
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    missing = {name: package.split(".")[0] for name, package in outcomes.items() if package}
    for room, packages in {"exporter": set(), "plugins": set(), "benchmarks": {"onnxruntime"}}.items():
        found = {package for name, package in missing.items() if room_of(name) == room}
        assert found <= {"torch", "torchvision", "safetensors"} | packages
    # what must work everywhere
    assert not [name for name in missing if name.startswith("frcnn.runtime") or name.count(".") < 2]
    assert not [name for name in missing if name.endswith((".spec", ".function")) or ".commands" in name]
    assert [name for name in missing if name.startswith("frcnn.exporter.model")]


def test_asking_for_what_needs_torch_names_the_extra() -> None:
    done = run_bare(
        "from frcnn.errors import MissingDependencyError\n"
        "try:\n    from frcnn.exporter import export_onnx\n"
        "except MissingDependencyError as error:\n    print(error.package, error.extra, error.hint)\n"
    )
    assert done.stdout.split(maxsplit=2)[1:] == ["export", "pip install 'frcnn[export]'\n"], done.stderr


@pytest.mark.parametrize(
    ("verb", "arguments"), [("export", ["a.pth"]), ("compare", ["a.pth", "b.onnx", "--images", "."])]
)
def test_a_verb_that_needs_torch_says_so_in_one_line(verb: str, arguments: list[str]) -> None:
    done = run_bare(f"from frcnn.cli import main\nsys.exit(main({[verb, *arguments]!r}))")
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert "'torch'" in error
    assert hint == "hint: pip install 'frcnn[export]'"


def test_the_namespace_is_this_tree() -> None:
    assert Path(frcnn.__file__).parent.resolve() == FACE.resolve()
    found = {module.name for module in pkgutil.walk_packages(frcnn.__path__, "frcnn.", onerror=lambda _name: None)}
    assert found | {"frcnn"} == set(MODULES)
