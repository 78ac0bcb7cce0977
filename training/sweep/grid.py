"""The trials of a sweep: every combination of the values that `--vary` gives."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from training.registry import preset
from training.upgrade import renamed_fields


def trials(name: str, vary: Sequence[str], data: Path | None = None) -> list[tuple[str, Any]]:
    """Return the name and the train config of every combination of values in `vary`, `FIELD=VALUE,VALUE,...` each.

    All configs are adapted to the prepared set `data`.

    Raises: ValueError for an unknown field or a value that does not fit.
    """
    base = preset(name, data)
    adapter, names = TypeAdapter(type(base)), renamed_fields(type(base))
    choices = [[(path, value) for value in values] for path, values in map(choices_of, vary)]
    paths = [values[0][0] for values in choices]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise ValueError(f"--vary names {twice[0]} twice; give all its values at once, as {twice[0]}=VALUE,VALUE")
    found = []
    for values in itertools.product(*choices):
        plain = adapter.dump_python(base, mode="json")
        for path, value in values:
            _put(plain, names.get(path, path), value)
        try:
            config = adapter.validate_python(plain)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the combination"
            raise ValueError(
                f"{', '.join(map('='.join, values))} does not fit {name}: {where}: {first['msg']}"
            ) from None
        varied = [f"{path}={value}" for i, (path, value) in enumerate(values) if len(choices[i]) > 1]
        found.append(("_".join(varied).replace("/", "-") or "only", config))
    return found


def choices_of(text: str) -> tuple[str, list[str]]:
    """Return the field and the values of `FIELD=VALUE,VALUE,...`; commas within brackets belong to a value."""
    path, equals, values = text.partition("=")
    if not equals or not values:
        raise ValueError(f"--vary {text} is not of the form FIELD=VALUE,VALUE,... such as loop.batch=8,16")
    return path.strip(), [value.strip() for value in re.split(r",(?![^\[]*\])", values)]


def _put(plain: dict[str, Any], path: str, value: str) -> None:
    """Set the field at the dotted `path`; ValueError with the names there if it is not one."""
    *groups, last = path.split(".")
    for group in groups:
        plain = plain.get(group, {}) if isinstance(plain, dict) else {}
    if not isinstance(plain, dict) or last not in plain or isinstance(plain[last], dict):
        names = sorted(k for k, v in plain.items() if not isinstance(v, dict)) if isinstance(plain, dict) else []
        raise ValueError(f"the preset has no field {path}; fields beside it: {', '.join(names) or 'none'}")
    try:
        plain[last] = json.loads(value)
    except ValueError:
        plain[last] = value
