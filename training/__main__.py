"""Commands: python -m training train | sweep | prepare | fid | evaluate | segment | publish | invert and others."""

import logging
import sys
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from training.command import exit_code
from training.registry import preset, presets, resolve
from training.upgrade import upgraded_options

VERBS: dict[str, tuple[str, str]] = {
    "prepare": ("training.data.prepare:COMMAND", "turn a folder of photos, or rendered cars, into a training set"),
    "fid": ("training.metrics.fid:Fid", "print the Frechet distance of a generator's samples to real pictures"),
    "evaluate": ("training.metrics.report:Evaluate", "measure a generator's knobs and write report.json, report.html"),
    "sweep": (
        "training.sweep.command:Sweep",
        "train variants of a preset in parallel on Ray Tune; stop bad ones early",
    ),
    "segment": (
        "training.segmentation.command:COMMAND",
        "find objects in photos and films and cut them out; export and measure finders",
    ),
    "publish": ("training.publish:Publish", "write a run as a small generator file with a card"),
    "invert": ("training.inversion:Invert", "find the codes of photos, for generators whose knobs turn"),
    "import-official": ("training.official:ImportOfficial", "convert the authors' checkpoints to generator files"),
}
"""Verb -> dotted name of a command (a dataclass with `run`, or a union of such) and one line of help."""


def usage() -> str:
    """Return the list of verbs and presets."""
    lines = ["usage: python -m training VERB ... (each answers --help)", ""]
    lines += ["  train PRESET        train a model; on an existing run folder, resume"]
    lines += [f"  {verb:<19} {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join([*lines, "", "presets: " + ", ".join(presets())])


def train(arguments: list[str]) -> None:
    """Parse `train PRESET --data DIR --out RUN [--FIELD VALUE]...` and train."""
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"name a preset after `train`: {', '.join(presets())}")
    name, *rest = arguments
    config = preset(name, _value("--data", rest))
    Train = make_dataclass(
        "Train",
        [
            ("data", Path),
            ("out", Path),
            ("start_from", tuple[Path, ...], ()),
            ("device", str | None, None),
            ("config", Annotated[_without_family(type(config)), tyro.conf.arg(name="")], field(default=config)),
        ],
        kw_only=True,
    )
    Train.__doc__ = f"Train {name} on the prepared set DATA in the run folder OUT; an existing run is resumed."
    args: Any = tyro.cli(Train, args=upgraded_options(rest, type(config)), prog=f"python -m training train {name}")
    from training.loop.train import train as run

    print(run(args.config, args.data, args.out, device=args.device, start_from=args.start_from))


def _without_family(config: type) -> Any:
    """Return a config class without `family` among its options: the preset fixes it, but Tyro lists it."""
    config.__annotations__["family"] = Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress]
    return config


def _value(option: str, arguments: list[str]) -> Path | None:
    """Return the path given to an option; None if the option is absent."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == option and following:
            return Path(following)
        if argument.startswith(f"{option}="):
            return Path(argument.partition("=")[2])
    return None


def main(arguments: list[str]) -> int:
    """Run one command; return 0, or 2 after a user error, which is printed in one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    verb, *rest = arguments
    if verb == "train":
        return exit_code(lambda: train(rest))
    if verb in VERBS:
        command, prog = resolve(VERBS[verb][0]), f"python -m training {verb}"
        return exit_code(lambda: tyro.cli(command, args=upgraded_options(rest, command), prog=prog).run())
    print(usage(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
