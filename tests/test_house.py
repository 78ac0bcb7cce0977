"""The house rules: imports go down, none in a circle; a config is a leaf; every option says what it does."""

import ast
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.house import PACKAGES, circles, graph, sources
from training.__main__ import VERBS
from training.registry import FAMILIES, resolve

ROOMS = (
    "upgrade", "batched", "resize", "config", "devices", "command", "files", "foreign", "bounded",
    "runtime", "types", "invertible", "nn", "interpolation", "registry", "checkpoint", "warm_start", "official",
    "imaging", "pictures", "knob_values", "codes_file", "films", "objects", "segmentation.contract",
    "segmentation.classical", "segmentation.subject", "data", "metrics", "segmentation", "inversion", "data.prepare",
    "loop", "publish", "sweep", "__main__",
)  # fmt: skip
"""Rooms of `training`, lowest first: each may import from those before it."""


def test_no_modules_import_each_other_in_a_circle():
    assert circles(graph()) == []


def test_imports_go_down_only():
    below = {"training": (), "giraffe_hd": ("training",), "mixnmatch": ("training",)}
    wrong = [
        f"{name} -> {other}"
        for name, others in graph().items()
        for other in others
        if (top := name.split(".")[0]) in below and other.split(".")[0] not in (top, *below[top])
    ]
    assert wrong == []


def test_rooms_of_training_import_from_lower_rooms_only():
    def place(name: str) -> int:
        within = [room for room in ROOMS if f"{name}.".startswith(f"training.{room}.")]
        return ROOMS.index(max(within, key=len))

    edges = {name: others for name, others in graph().items() if name.startswith("training.")}
    wrong = [
        f"{name} -> {other}"
        for name, others in edges.items()
        for other in others
        if other.startswith("training.") and place(other) > place(name)
    ]
    assert wrong == []


def test_no_model_imports_the_loop_or_a_metric():
    models = {name: others for name, others in graph().items() if name.startswith(("giraffe_hd", "mixnmatch"))}
    wrong = [
        f"{name} -> {other}"
        for name, others in models.items()
        for other in others
        if other.startswith(("training.loop", "training.metrics", "training.registry"))
    ]
    assert wrong == []


def test_importing_configs_loads_no_loop_and_no_metric():
    modules = sorted({family.config.partition(":")[0] for family in FAMILIES.values()})
    loaded = "[name for name in sys.modules if name.startswith(('training.loop', 'training.metrics', 'cleanfid'))]"
    code = f"import sys, {', '.join(modules)}; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def without_help(dotted: str, seen: set[str]) -> list[str]:
    """Return the fields of a dataclass, and of those inside it, that no text follows."""
    module, _, name = dotted.partition(":")
    path = sources().get(module)
    if path is None or dotted in seen:
        return []
    seen.add(dotted)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if found is None or not any("dataclass" in ast.unparse(d) for d in found.decorator_list):
        return []
    missing = []
    for i, node in enumerate(found.body):
        if not isinstance(node, ast.AnnAssign) or "ClassVar" in ast.unparse(node.annotation):
            continue
        after = found.body[i + 1] if i + 1 < len(found.body) else None
        said = (
            isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
        )
        inside = configs_of(dotted, ast.unparse(node.target))
        if not said and not inside:
            missing.append(f"{dotted}.{ast.unparse(node.target)}")
        for each in inside:
            missing += without_help(each, seen)
    return missing


def configs_of(dotted: str, name: str) -> list[str]:
    """Return the dotted names of our dataclasses that a field's annotation names."""
    annotation: Any = getattr(resolve(dotted), "__annotations__", {}).get(name)
    kinds = [annotation, *getattr(annotation, "__args__", ())]
    ours = [kind for kind in kinds if hasattr(kind, "__dataclass_fields__")]
    return [f"{kind.__module__}:{kind.__name__}" for kind in ours if kind.__module__ in sources()]


def commands() -> list[str]:
    """Return the dotted names of every dataclass whose fields are options."""
    presets = [type(resolve(dotted)) for family in FAMILIES.values() for dotted in family.presets.values()]
    kinds = [kind for preset in presets for kind in preset.__mro__ if hasattr(kind, "__dataclass_fields__")]
    found = [f"{kind.__module__}:{kind.__name__}" for kind in kinds]
    for dotted, _ in VERBS.values():
        made = resolve(dotted)
        kinds = [made, *getattr(made, "__args__", ())]
        for kind in kinds:
            inner = [kind, *getattr(kind, "__args__", ())]
            found += [f"{k.__module__}:{k.__name__}" for k in inner if hasattr(k, "__dataclass_fields__")]
    for module in ("giraffe_hd.__main__", "mixnmatch.__main__", "demo.__main__"):
        tree = ast.parse(sources()[module].read_text(encoding="utf-8"))
        found += [f"{module}:{n.name}" for n in tree.body if isinstance(n, ast.ClassDef) and n.decorator_list]
    return list(dict.fromkeys(found))


def test_every_option_has_help():
    seen: set[str] = set()
    assert [field for dotted in commands() for field in without_help(dotted, seen)] == []


SYMBOLS = {
    "giraffe_hd": {
        "generator": ("z_s, z_a", "h_fg", "V_fg", "R_fg", "R_bg", "mask", "I = M F + (1 - M) B"),
        "losses": ("L_adv", "R1", "L_bbox", "L_cvg", "L_bin"),
    },
    "mixnmatch": {
        "generator": ("B =", "f =", "P_f, P_m", "C_f, C_m", "P =", "G(y) =", "tied codes", "S: x -> f"),
        "losses": ("L_b", "L_p", "L_c", "L_bi", "L_code", "L_S"),
    },
}
"""Symbols of the papers, by the module whose table says where each is computed."""


@pytest.mark.parametrize("version", ["fast", "paper"])
@pytest.mark.parametrize("package", SYMBOLS)
def test_the_papers_symbols_lead_to_names_that_exist(package, version):
    known: set[str] = set()
    for module, path in sources().items():
        if module.startswith((package, "training")):
            known |= set(module.split("."))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case (
                        ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Attribute(attr=name) | ast.arg(name)
                    ):
                        known.add(name)
    for module, symbols in SYMBOLS[package].items():
        table = ast.get_docstring(ast.parse(sources()[f"{package}.{version}.{module}"].read_text(encoding="utf-8")))
        assert table is not None and [symbol for symbol in symbols if symbol not in table] == []
        names = re.findall(r"`([A-Za-z_][\w.]*)`", table)
        assert [name for name in names if not name.endswith(".pth") and not set(name.split(".")) <= known] == []


def longest(limit: int, measure: Any) -> list[str]:
    """Return what of our code and tests is longer than `limit` lines; kernels are exempt, unrolled by hand."""
    return [
        f"{name}: {lines}"
        for module, path in sources((*PACKAGES, "tests")).items()
        if not module.endswith("_triton")
        for name, lines in measure(module, path.read_text(encoding="utf-8"))
        if lines > limit
    ]


def test_no_file_is_longer_than_400_lines():
    assert longest(400, lambda module, text: [(module, text.count("\n"))]) == []


def test_no_function_is_longer_than_60_lines():
    def functions(module: str, text: str) -> list[tuple[str, int]]:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
        return [(f"{module}.{n.name}", (n.end_lineno or 0) - n.lineno + 1) for n in nodes]

    assert longest(60, functions) == []
