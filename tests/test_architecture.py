"""The house rules a program can check, read from the source's syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import viscera

PACKAGE = Path(viscera.__file__).parent

# A module imports from its own row or from rows above it, never from below, wherever in it the import stands
# (docs/explanation/architecture.md). Inside a row and inside each package there are no circles.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("formats",),
    ("model",),
    ("engines",),
    ("quality",),
    ("drawing",),
    (
        "read",
        "preprocess",
        "localise",
        "crop",
        "segment",
        "restore",
        "postprocess",
        "write",
        "case",
        "convert",
        "result",
    ),
    ("pipeline",),
    ("segmenter",),
    ("evaluation", "synthesis", "demo_data"),
    ("training",),
    ("viewer",),
    ("batch", "pacs"),
    ("cli",),
    ("__main__",),
)
LAYER_OF = {name: row for row, names in enumerate(LAYERS) for name in names}

# The places where an unforeseen error is caught: a broken case must not end the others.
BROAD_EXCEPT_ALLOWED = {
    ("cli.segment_run", "_segment"),
    ("pacs.worker", "_segment"),
    ("batch.dask_workers", "finished"),
    ("batch.tasks", "_worked"),
}

# Reversals that are not a turn of an image's axes, counted by module; a new one belongs into geometry.py.
REVERSALS = {
    "core.resample": 1,  # the columns of a matrix
    "formats.nifti_header": 2,  # the header's order, x first
    "drawing.panel": 1,  # rows of a picture run downwards
    "synthesis.build": 1,  # the mirror image of a kidney
    "synthesis.phantom": 1,  # the unit matrix over (z, y, x)
}

# One word says best what both the module and its one function are.
NAMED_LIKE_ITS_MODULE = {"resample", "main", "version", "surface_distances", "train"}

HEAVY = {
    "torch",
    "openvino",
    "scipy",
    "SimpleITK",
    "PIL",
    "matplotlib",
    "gdcm",
    "onnx",
    "highdicom",
    "pynetdicom",
    "requests",
}
# The networks are torch modules, and everything that trains or exports them needs torch to exist at all.
TORCH_AT_HOME = (
    "model.networks",
    "training",
    "synthesis",
    "engines.export",
    "engines.torch_engine",
    "engines.torch_tiled",
)


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, module in MODULES.items():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield name, node


def imported(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            names = (f"{child.module}.{alias.name}" for alias in child.names)
            yield from (name if name.removeprefix("viscera.") in MODULES else child.module for name in names)


def at_import_time(module: ast.Module) -> Iterator[str]:
    """What runs when the module is imported: top-level statements, `if TYPE_CHECKING` left out."""
    for statement in module.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield from imported(statement)


def enclosing_functions(module: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else name
            yield inner, child
            yield from walk(child, inner)

    yield from walk(module, "")


def called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def backward_imports(modules: dict[str, ast.Module]) -> list[tuple[str, str]]:
    """Which module imports what from a row below its own."""
    found = []
    for name, module in modules.items():
        own = name.split(".")[0]
        if not own:
            continue  # the façade names everything, lazily
        assert own in LAYER_OF, f"give {own} a row in LAYERS"
        for full in imported(module):
            if full.startswith("viscera."):
                other = full.split(".")[1]
                assert other in LAYER_OF, f"{name}: give {other} a row in LAYERS"
                if LAYER_OF[other] > LAYER_OF[own]:
                    found.append((name, full))
    return found


def circle_among(modules: dict[str, ast.Module]) -> list[str]:
    """Modules that import each other in a circle, imports within functions and for types included; [] if none do."""
    remaining = {
        name: {full.removeprefix("viscera.") for full in imported(module) if full.startswith("viscera.")}
        for name, module in modules.items()
        if name
    }
    while free := [name for name, needs in remaining.items() if not needs & remaining.keys() - {name}]:
        for name in free:
            del remaining[name]
    return sorted(remaining)


def test_imports_point_one_way() -> None:
    assert not backward_imports(MODULES)


def test_imports_make_no_circle() -> None:
    assert not circle_among(MODULES)


def test_an_import_backwards_would_be_seen() -> None:
    lazily = ast.parse("def load():\n    from viscera.segmenter import Segmenter")
    assert backward_imports({"core.geometry": lazily}) == [("core.geometry", "viscera.segmenter")]


def test_a_circle_inside_a_package_would_be_seen() -> None:
    one, other = ast.parse("import viscera.core.volume"), ast.parse("def f():\n    import viscera.core.geometry")
    assert circle_among({"core.geometry": one, "core.volume": other}) == ["core.geometry", "core.volume"]


def test_modules_are_short() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_functions_are_short() -> None:
    for name, function in functions():
        docstring = len((ast.get_docstring(function, clean=False) or "").splitlines())
        length = (function.end_lineno or 0) - function.lineno + 1 - docstring
        assert length <= 60, f"{name}.{function.name}: {length} lines"


def test_functions_take_few_parameters() -> None:
    for name, function in functions():
        given = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        count = len([argument for argument in given if argument.arg not in {"self", "cls"}])
        assert count <= 8, f"{name}.{function.name}: {count} parameters"


def test_only_the_command_line_prints_and_exits() -> None:
    forbidden = {"print", "exit", "quit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write"}
    for name, module in MODULES.items():
        if name.split(".")[0] not in {"cli", "__main__"}:
            assert not {called(node) for node in ast.walk(module)} & forbidden, name


def test_only_the_command_line_reads_the_environment() -> None:
    for name, module in MODULES.items():
        if name.split(".")[0] != "cli":
            found = {ast.unparse(node) for node in ast.walk(module) if isinstance(node, ast.Attribute)}
            assert not {"os.environ", "os.getenv"} & found, name


def test_excepts_are_narrow() -> None:
    for name, module in MODULES.items():
        for function, node in enclosing_functions(module):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = "everything" if node.type is None else ast.unparse(node.type)
            reraises = any(isinstance(child, ast.Raise) and child.exc is None for child in node.body)
            allowed = (name, function) in BROAD_EXCEPT_ALLOWED or reraises
            broad = caught in {"everything", "Exception", "BaseException"}
            assert allowed or not broad, f"{name}.{function}, line {node.lineno}: except {caught}"


def test_nothing_is_unpickled() -> None:
    for name, module in MODULES.items():
        roots = {full.split(".")[0] for full in imported(module)}
        assert not {"pickle", "dill", "joblib", "shelve", "marshal"} & roots, name
        for node in ast.walk(module):
            assert called(node) not in {"torch.load", "torch.save", "eval", "exec"}, name
            pickled = isinstance(node, ast.keyword) and node.arg == "allow_pickle"
            assert not (pickled and ast.unparse(node.value) != "False"), name


def test_heavy_packages_are_imported_where_needed() -> None:
    for name, module in MODULES.items():
        if not name.startswith(TORCH_AT_HOME):
            heavy = HEAVY & {full.split(".")[0] for full in at_import_time(module)}
            assert not heavy, f"{name} imports {sorted(heavy)}"


def test_axes_are_reversed_in_geometry_only() -> None:
    for name, module in MODULES.items():
        slices = [node for node in ast.walk(module) if isinstance(node, ast.Slice)]
        lines = [node.lineno for node in slices if ast.unparse(node) == "::-1"]
        assert name == "core.geometry" or len(lines) <= REVERSALS.get(name, 0), f"{name}: [::-1] in lines {lines}"


def test_no_function_bears_its_modules_name() -> None:
    for name, module in MODULES.items():
        own = name.split(".")[-1]
        names = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
        assert own in NAMED_LIKE_ITS_MODULE or own not in names, name


def test_module_names_say_what_is_inside() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [name for name in MODULES if vague & set(name.split("."))]


def test_every_module_says_what_it_is() -> None:
    assert not [name for name, module in MODULES.items() if not ast.get_docstring(module)]
