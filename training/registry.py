"""The families of models and their presets, imported on demand: the only file that names them.

A new model is one package and one entry of `FAMILIES`.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)


class Official(NamedTuple):
    """How the authors' checkpoint of a family is recognised and read."""

    marks: str
    """Regular expression of a top-level key that only its files have."""
    most: int
    """Largest number of files of one checkpoint."""
    reader: str
    """Dotted name of a function from these files to a generator."""
    preset: str
    """A preset whose training pictures are cropped as the authors' were."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Dotted names, `package.module:name`, of the parts of a family of models."""

    model: str
    """The generator class, built from its config."""
    config: str
    """The config class of the generator."""
    recipe: str = ""
    """The recipe class, built from a train config and a device; empty where the model is made of another one's
    weights."""
    presets: Mapping[str, str] = field(default_factory=dict)
    """Preset -> dotted name of a train config."""
    official: Official | None = None
    """The authors' checkpoints, for `python -m training import-official`."""
    makes_pictures: bool = True
    """Whether the model is a generator; object finders are not."""


FAMILIES: dict[str, Family] = {
    "giraffe_hd": Family(
        model="giraffe_hd.fast.generator:Generator",
        config="giraffe_hd.fast.config:GeneratorConfig",
        recipe="giraffe_hd.fast.recipe:Recipe",
        presets={
            "giraffe-hd-cars-64": "giraffe_hd.fast.presets:CARS_64",
            "giraffe-hd-cars-128": "giraffe_hd.fast.presets:CARS_128",
            "giraffe-hd-photos-64": "giraffe_hd.fast.presets:PHOTOS_64",
            "giraffe-hd-cats-64": "giraffe_hd.fast.presets:CATS_64",
            "giraffe-hd-fruit-64": "giraffe_hd.fast.presets:FRUIT_64",
        },
    ),
    "giraffe_hd_reader": Family(
        model="giraffe_hd.fast.reader:PoseReader", config="giraffe_hd.fast.reader:ReaderConfig", makes_pictures=False
    ),
    "giraffe_hd_paper": Family(
        model="giraffe_hd.paper.generator:Generator",
        config="giraffe_hd.paper.config:GeneratorConfig",
        recipe="giraffe_hd.paper.recipe:Recipe",
        presets={
            f"giraffe-hd-paper-{name}-{size}": f"giraffe_hd.paper.presets:{name.upper()}_{size}"
            for name in ("compcar", "ffhq", "afhq", "cats", "celeba")
            for size in (64, 128, 256, 512, 1024)
        },
        official=Official("g_ema", 1, "giraffe_hd.paper.official:read", "giraffe-hd-paper-compcar-256"),
    ),
    "giraffe": Family(
        model="giraffe_hd.giraffe2021.generator:Generator",
        config="giraffe_hd.giraffe2021.config:GeneratorConfig",
        recipe="giraffe_hd.giraffe2021.recipe:Recipe",
        presets={
            f"giraffe-2021-{name}": f"giraffe_hd.giraffe2021.presets:{name.upper().replace('-', '_')}"
            for name in ("chairs-64", "church-64", "church-256", "clevr2-256", "clevr2345-256")
        },
    ),
    "mixnmatch": Family(
        model="mixnmatch.fast.generator:Generator",
        config="mixnmatch.fast.config:GeneratorConfig",
        recipe="mixnmatch.fast.recipe:Recipe",
        presets={
            "mixnmatch-cars-64": "mixnmatch.fast.presets:CARS_64",
            "mixnmatch-kinds-64": "mixnmatch.fast.presets:CLOTHING_64",
            "mixnmatch-kinds-128": "mixnmatch.fast.presets:CLOTHING_128",
        },
    ),
    "mixnmatch_continuous": Family(
        model="mixnmatch.continuous.generator:Generator",
        config="mixnmatch.continuous.config:GeneratorConfig",
        recipe="mixnmatch.continuous.recipe:Recipe",
        presets={
            "mixnmatch-clothing-64": "mixnmatch.continuous.presets:CLOTHING_64",
            "mixnmatch-clothing-128": "mixnmatch.continuous.presets:CLOTHING_128",
            "mixnmatch-pets-64": "mixnmatch.continuous.presets:PETS_64",
            "mixnmatch-pets-128": "mixnmatch.continuous.presets:PETS_128",
        },
    ),
    "mixnmatch_paper": Family(
        model="mixnmatch.paper.generator:Generator",
        config="mixnmatch.paper.config:GeneratorConfig",
        recipe="mixnmatch.paper.recipe:Recipe",
        presets={
            "mixnmatch-paper-cub": "mixnmatch.paper.presets:CUB",
            "mixnmatch-paper-dogs": "mixnmatch.paper.presets:DOGS",
            "mixnmatch-paper-cars": "mixnmatch.paper.presets:CARS",
        },
        official=Official(
            r"(module\.)?(background_stage|model_z|first)\..+",
            3,
            "mixnmatch.paper.official:read",
            "mixnmatch-paper-cub",
        ),
    ),
    "yolact": Family(
        model="training.segmentation.yolact.network:Yolact",
        config="training.segmentation.yolact.config:NetworkConfig",
        recipe="training.segmentation.yolact.recipe:Recipe",
        makes_pictures=False,
        presets={
            "yolact-fast-320": "training.segmentation.yolact.presets:FAST_320",
            **{
                f"yolact-{name}": f"training.segmentation.yolact.presets:{name.replace('-', '_').upper()}"
                for name in (
                    *("base", "im400", "im700", "resnet50", "resnet50-pascal", "darknet53"),
                    *("plus-base", "plus-resnet50"),
                    *("edge", "edge-resnet50", "edge-mobilenetv2", "edge-youtubevis-resnet50"),
                )
            },
        },
        official=Official(
            r"(module\.)?(backbone|fpn|proto_net|prediction_layers|layers)\..+",
            1,
            "training.segmentation.yolact.official:read",
            "yolact-base",
        ),
    ),
    "yolact_flow": Family(
        model="training.segmentation.yolact.network:Yolact",
        config="training.segmentation.yolact.config:NetworkConfig",
        recipe="training.segmentation.yolact.recipe_video:FlowRecipe",
        makes_pictures=False,
        presets={
            "yolact-edge-trainflow": "training.segmentation.yolact.presets:EDGE_TRAINFLOW",
            "yolact-edge-trainflow-resnet50": "training.segmentation.yolact.presets:EDGE_TRAINFLOW_RESNET50",
        },
    ),
    "yolact_video": Family(
        model="training.segmentation.yolact.network:Yolact",
        config="training.segmentation.yolact.config:NetworkConfig",
        recipe="training.segmentation.yolact.recipe_video:VideoRecipe",
        makes_pictures=False,
        presets={
            "yolact-edge-vid": "training.segmentation.yolact.presets:EDGE_VID",
            "yolact-edge-vid-resnet50": "training.segmentation.yolact.presets:EDGE_VID_RESNET50",
        },
    ),
}
"""Name of a family, as in generator files and configs -> its parts."""

RENAMED = {"mixnmatch-photos-64": "mixnmatch-clothing-64", "mixnmatch-photos-128": "mixnmatch-clothing-128"}
"""Presets of earlier versions -> what they are called now."""


def presets() -> dict[str, str]:
    """Return every preset's name with the dotted name of its train config."""
    return {name: dotted for family in FAMILIES.values() for name, dotted in family.presets.items()}


def officials() -> dict[str, Official]:
    """Return how the authors' checkpoints are read, for the families that have some."""
    return {name: family.official for name, family in FAMILIES.items() if family.official is not None}


def family_of(name: str) -> Family:
    """Return the family called `name`. Raises: ValueError that lists the known ones."""
    return look_up(FAMILIES, name, "family")


def resolve(dotted: str) -> Any:
    """Import and return the object `package.module:name`."""
    module, _, name = dotted.partition(":")
    return getattr(import_module(module), name)


def look_up(table: Mapping[str, Any], name: str, what: str) -> Any:
    """Return `table[name]`. Raises: ValueError that lists the known names."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(sorted(table))}")
    return table[name]


def preset(name: str, data: Path | None = None) -> Any:
    """Return the train config called `name`, adapted to the prepared set `data` if one is given.

    A config that can be adapted has a method `suited`, which takes the content of `set.json`, or `for_folder`, which
    takes the folder.
    """
    if name in RENAMED:
        log.warning("the preset %s is now called %s; the old name goes with the next release", name, RENAMED[name])
        name = RENAMED[name]
    config = resolve(look_up(presets(), name, "preset"))
    if data is not None and hasattr(config, "for_folder"):
        return config.for_folder(data)
    about = None if data is None else data / "set.json"
    if about is None or not about.is_file() or not hasattr(config, "for_dataset"):
        return config
    return config.for_dataset(json.loads(about.read_text(encoding="utf-8")))
