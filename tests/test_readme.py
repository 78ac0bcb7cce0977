"""The README's commands exist as written: each is asked for its help, and every option it is given must be in there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"^    (?:torchrun .+? -m|python -m) (.+)$", README, re.MULTILINE)))


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("line", COMMANDS)
def test_command_knows_the_options_it_is_shown_with(line):
    module, *arguments = shlex.split(line)
    verbs: list[str] = []
    for argument in arguments:  # verb, and for `train` a preset: words before the first path or option
        if argument.startswith("-") or "/" in argument or "." in argument:
            break
        verbs.append(argument)
    done = subprocess.run(
        [sys.executable, "-m", module, *verbs, "--help"], capture_output=True, text=True, timeout=120, env=wide()
    )
    assert done.returncode == 0, done.stderr
    for option in (a.partition("=")[0] for a in arguments if a.startswith("--")):
        assert re.search(rf"{re.escape(option)}\b", done.stdout), f"{option} is not an option of {line}"


def wide() -> dict[str, str]:
    """Return an environment in which no help text is wrapped within an option's name."""
    return os.environ | {"COLUMNS": "200"}


def test_python_example_runs(tmp_path, monkeypatch):
    """The library example, on the bundled checkpoint, writes its picture."""
    (code,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    root = Path(__file__).parent.parent
    code = code.replace('"checkpoints/', f'"{root}/checkpoints/').replace('"car.png"', f'"{tmp_path}/car.png"')
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "car.png").stat().st_size > 1000


def test_every_picture_and_file_it_names_is_there():
    root = Path(__file__).parent.parent
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README) + re.findall(r"`(checkpoints/[\w.-]+)`", README):
        assert (root / path).is_file(), path
