"""What the README and the longer pages say is so: commands, options, presets, figures, files, the tree, the example."""

import contextlib
import functools
import io
import json
import re
import runpy
import shlex
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from tests.places import ROOT
from training.registry import presets

PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", ROOT / "checkpoints" / "NOTEBOOK.md"]
PAGES += sorted(
    path for top in ("training", "giraffe_hd", "mixnmatch", "demo", "tests") for path in (ROOT / top).rglob("README.md")
)
README = PAGES[0].read_text(encoding="utf-8")
COMMAND = re.compile(r"^    (?:torchrun .+? -m|python -m) (.+)$", re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Return what the indented lines of a page give to `python -m`, its shell variables filled in."""
    text = page.read_text(encoding="utf-8")
    for name, value in re.findall(r"^    (\w+)=(\S+)$", text, re.MULTILINE):
        text = text.replace(f"${name}/", f"{value}/")
    return [re.sub(r"\s+#.*", "", line) for line in COMMAND.findall(text)]


PRESETS = presets()
TORCHRUN = {"--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--max-restarts"}
COMMANDS = sorted({line for page in PAGES for line in commands(page)})


def ran(line: str) -> str:
    """Run a command in this process, as `python -m` does; return what it printed. A failure raises."""
    module, *arguments = shlex.split(line)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [module, *arguments])
        for name in (module, f"{module}.__main__"):  # runpy warns where it is imported already
            if name not in ("training", "mixnmatch", "giraffe_hd", "demo"):
                patch.delitem(sys.modules, name, raising=False)
        patch.setenv("COLUMNS", "200")  # no help text is wrapped within an option's name
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=False)
        except SystemExit as end:
            assert not end.code, f"{line} ended with {end.code}: {printed.getvalue()}"
    return printed.getvalue()


def test_readme_is_read_in_five_minutes():
    assert len(README.split()) <= 1100


def test_readme_shows_commands():
    assert len(commands(PAGES[0])) >= 8


def verbs(line: str) -> tuple[str, ...]:
    """Return module and verb, and for `train` the preset: the words before the first path or option."""
    module, *arguments = shlex.split(line)
    return module, *takewhile(lambda word: not re.search(r"^-|[/.]", word), arguments)


@functools.cache
def options(words: tuple[str, ...]) -> frozenset[str]:
    """Return the options that a command's help names."""
    printed = ran(shlex.join([*words, "--help"]))
    return frozenset(re.findall(r"--[a-z][\w.-]*", printed))


@pytest.mark.parametrize("line", COMMANDS)
def test_command_knows_its_options(line):
    words = verbs(line)
    if words[:2] == ("training", "train"):
        assert words[2] in PRESETS
    given = {word.partition("=")[0] for word in shlex.split(line) if word.startswith("--")}
    assert given <= options(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_that_the_text_names_exist(page):
    known = {option for line in COMMANDS for option in options(verbs(line))} | {"--help"} | TORCHRUN
    named = re.findall(r"`[^`\n]*?(--[a-z][\w.-]*)", page.read_text(encoding="utf-8"))
    assert set(named) <= known


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio leaves ffmpeg's pipes open
@pytest.mark.parametrize("package", ["giraffe_hd", "mixnmatch"])
def test_commands_of_a_model_run_as_written(package, tmp_path, monkeypatch):
    """Those on bundled models, in the page's order: later ones may read what earlier ones wrote."""
    for name in ("checkpoints", "demo"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    if package == "mixnmatch":
        model = "checkpoints/giraffe-hd-cars-64.safetensors"
        ran(f"giraffe_hd turntable --checkpoint {model} --n 1 --frames 4 --out turn.mp4")
    lines = [line for line in commands(ROOT / package / "README.md") if "--checkpoint checkpoints/" in line]
    assert len(lines) >= 4
    for line in lines:
        ran(line)
        _, out = line.split("--out ")
        assert (tmp_path / out.split()[0]).stat().st_size > 500, line


def test_python_example_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    code = code.replace('"checkpoints/', f'"{ROOT}/checkpoints/').replace('"car.png"', f'"{tmp_path}/car.png"')
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "car.png").stat().st_size > 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Every link to a file, picture or heading of this repository, and every `checkpoints/...` that is named."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, heading = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles], target
    for path in re.findall(r"`(checkpoints/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_presets_that_are_named_exist(page):
    bundled = {path.stem for path in (ROOT / "checkpoints").glob("*.safetensors")}
    runs = {path.name for path in (ROOT / "checkpoints" / "resume").iterdir()}
    for name in re.findall(
        r"`((?:giraffe-hd|giraffe-2021|mixnmatch|yolact)-[a-z0-9-]+[a-z0-9])`", page.read_text("utf-8")
    ):
        assert name in {*PRESETS, *bundled, *runs}, name


def shown(figures: dict, name: str, form: str) -> str:
    """Return a figure as the table shows it; a dash where it was not measured."""
    return f"{figures[name]:{form}}".replace("%", " %") if name in figures else "–"


def row(card: dict) -> str:
    """Return a card's row in the README's table."""
    name, figures = card["stem"], card["figures"]
    cells = [f"[{name}](checkpoints/{name}.json)", f"{card['resolution']}", f"{card['images_seen']:,}"]
    if card["family"].startswith("giraffe"):
        # of photos nothing reads the rotation, but for turns where there were films of them
        cells += [shown(figures, "rotation_error" if "rotation_error" in figures else "turn_error", ".1f")]
        cells[-1] += "°" if cells[-1] != "–" else ""
        cells += [shown(figures, "rotation_flips", ".2%")]
        cells += [shown(figures, f"{knob}_r2", ".2f") for knob in ("elevation", "scale")]
        cells.append(shown(figures, "turns_closed", ".0%"))
    else:
        cells += [f"{figures['swap_diagonal']:.2f}", f"{figures['swap_leakage']:.2f}"]
        cells += [f"{figures[f'given_mask_iou_{mode}']:.2f}" for mode in ("code", "feature")]
    network = next((key for key in figures if key.startswith("FD-")), "")  # sets of few photos have none
    floor = figures.get(f"real against real {network}")
    cells.append(shown(figures, network, ".0f") + ("" if floor is None else f" ({floor:.0f})"))
    return "| " + " | ".join(cells) + " |"


@pytest.mark.parametrize("path", sorted((ROOT / "checkpoints").glob("*.json")), ids=lambda path: path.stem)
def test_table_shows_the_figures_of_the_cards(path):
    card = json.loads(path.read_text(encoding="utf-8")) | {"stem": path.stem}
    if card["family"].startswith(("giraffe", "mixnmatch")):
        assert row(card) in README


@pytest.mark.parametrize("line", re.findall(r"\| `([a-z0-9-]+ --data \S+)` \|$", README, re.MULTILINE))
def test_table_names_presets(line):
    assert line.split()[0] in PRESETS


def test_the_tree_is_the_one_on_disk():
    """A file or folder a line, or several side by side; those indented further lie in the last that is not."""
    (tree,) = re.findall(r"^## The tree\n\n((?:    .+\n)+)", README, re.MULTILINE)
    lines = [line[4:] for line in tree.splitlines()]
    assert len(lines) <= 22
    top = ROOT
    for line in lines:
        inner = line.startswith(" ")
        named = [(top if inner else ROOT) / name for name in line.strip().split("  ")[0].split()]
        assert all(path.exists() for path in named), line
        top = top if inner else named[0]
