"""Names of earlier versions, accepted for one release: options, configs in files, networks of resume states.

A config class lists renamed fields in `RENAMED`, old -> new, and removed ones in `RETIRED`, each with the only value
that is still supported. This module imports nothing of ours.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

log = logging.getLogger(__name__)
T = TypeVar("T")

NETWORKS: dict[str, str] = {
    "readers": "code_classifiers",
    "background_critic": "background_discriminator",
    "image_critic": "image_discriminator",
    "pair_critic": "pair_discriminator",
    "feature_critic": "feature_discriminator",
    "parent_critic": "parent_discriminator",
    "child_critic": "child_discriminator",
}
"""Networks of resume states, and phases named after them: old -> new."""


def upgraded(said: Any, config: type, where: str = "") -> Any:
    """Return the JSON of a config with today's names of its fields, nested ones too; changes are logged.

    Anything but a JSON object is returned unchanged, and rejected when the config is read.
    """
    if not isinstance(said, Mapping):
        return said
    renamed, retired = getattr(config, "RENAMED", {}), getattr(config, "RETIRED", {})
    inside = configs_inside(config)
    found = {}
    for name, value in said.items():
        if name in retired and value == retired[name]:
            continue
        new = renamed.get(name, name) if renamed.get(name) not in said else name
        if new != name:
            log.info("config of an earlier version: %s%s is now %s%s", where, name, where, new)
        found[new] = upgraded(value, inside[new], f"{where}{new}.") if new in inside else value
    return found


def upgraded_options(arguments: Sequence[str], config: Any) -> list[str]:
    """Return a command line with today's names of options; a warning names each new one.

    `config` is the class of the options; a union of commands has none.
    """
    names = {old.replace("_", "-"): new.replace("_", "-") for old, new in renamed_fields(config).items()}
    found = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        old = option.removeprefix("--").replace("_", "-")
        if option.startswith("--") and old in names:
            log.warning("%s is now called --%s; the old name goes with the next release", option, names[old])
            argument = f"--{names[old]}{equals}{value}"
        found.append(argument)
    return found


def renamed_fields(config: Any, prefix: str = "") -> dict[str, str]:
    """Return old -> new of all renamed fields of a config and its nested configs, as dotted names."""
    found = {f"{prefix}{old}": f"{prefix}{new}" for old, new in getattr(config, "RENAMED", {}).items()}
    for name, kind in configs_inside(config).items():
        found |= renamed_fields(kind, f"{prefix}{name}.")
    return found


def configs_inside(config: Any) -> dict[str, type]:
    """Return the fields of a dataclass that are themselves dataclasses, with their classes."""
    if not is_dataclass(config):
        return {}
    hints, found = get_type_hints(config), {}
    for field in fields(config):
        kinds = [kind for kind in (hints[field.name], *get_args(hints[field.name])) if is_dataclass(kind)]
        if kinds:
            found[field.name] = kinds[0]
    return found


def upgraded_names(values: Mapping[str, T]) -> dict[str, T]:
    """Return a state's values, named by network (`network.layer.weight`) or by phase, under today's names."""
    found = {}
    for name, value in values.items():
        network, dot, rest = name.partition(".")
        if network.removesuffix("_r1") in NETWORKS:
            network = NETWORKS[network.removesuffix("_r1")] + ("_r1" if network.endswith("_r1") else "")
        found[f"{network}{dot}{rest}"] = value
    return found
