"""Names of generators and presets, resolved on demand: the only file that names the two models.

A third model is one package and one line in each table.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

FAMILIES: dict[str, tuple[str, str]] = {
    "giraffe_hd": ("giraffe_hd.generator:Generator", "giraffe_hd.configs:GeneratorConfig"),
    "giraffe_hd_paper": ("giraffe_hd.paper.generator:Generator", "giraffe_hd.paper.config:GeneratorConfig"),
    "giraffe": ("giraffe_hd.paper.giraffe:Generator", "giraffe_hd.paper.config:GiraffeConfig"),
    "mixnmatch": ("mixnmatch.generator:Generator", "mixnmatch.configs:GeneratorConfig"),
    "mixnmatch_continuous": (
        "mixnmatch.continuous.generator:Generator",
        "mixnmatch.continuous.config:GeneratorConfig",
    ),
    "mixnmatch_paper": ("mixnmatch.paper.generator:Generator", "mixnmatch.paper.config:GeneratorConfig"),
    "yolact": ("training.segmentation.yolact.network:Yolact", "training.segmentation.yolact.config:NetworkConfig"),
}
"""Family -> dotted names of the generator class and of the config it is built from."""

RECIPES: dict[str, str] = {
    "giraffe_hd": "giraffe_hd.recipe:Recipe",
    "giraffe_hd_paper": "giraffe_hd.paper.recipe:Recipe",
    "giraffe": "giraffe_hd.paper.recipe:GiraffeRecipe",
    "mixnmatch": "mixnmatch.recipe:Recipe",
    "mixnmatch_continuous": "mixnmatch.continuous.recipe:Recipe",
    "mixnmatch_paper": "mixnmatch.paper.recipe:Recipe",
    "yolact": "training.segmentation.yolact.recipe:Recipe",
    "yolact_flow": "training.segmentation.yolact.recipe_video:FlowRecipe",
    "yolact_video": "training.segmentation.yolact.recipe_video:VideoRecipe",
}
"""Family -> dotted name of the recipe class, built from a `TrainConfig`."""

PRESETS: dict[str, str] = {
    "giraffe-hd-cars-64": "giraffe_hd.configs:CARS_64",
    "giraffe-hd-cars-128": "giraffe_hd.configs:CARS_128",
    "giraffe-hd-photos-64": "giraffe_hd.configs:PHOTOS_64",
    "giraffe-hd-cats-64": "giraffe_hd.configs:CATS_64",
    **{
        f"giraffe-hd-paper-{name}-{size}": f"giraffe_hd.paper.presets:{name.upper()}_{size}"
        for name in ("compcar", "ffhq", "afhq", "cats", "celeba")
        for size in (64, 128, 256, 512, 1024)
    },
    **{
        f"giraffe-2021-{name}": f"giraffe_hd.paper.presets:{name.upper().replace('-', '_')}"
        for name in ("chairs-64", "church-64", "church-256", "clevr2-256", "clevr2345-256")
    },
    "mixnmatch-cars-64": "mixnmatch.configs:CARS_64",
    "mixnmatch-clothing-64": "mixnmatch.configs:CLOTHING_64",
    "mixnmatch-clothing-128": "mixnmatch.configs:CLOTHING_128",
    "mixnmatch-photos-64": "mixnmatch.continuous.presets:CLOTHING_64",
    "mixnmatch-photos-128": "mixnmatch.continuous.presets:CLOTHING_128",
    "mixnmatch-paper-cub": "mixnmatch.paper.presets:CUB",
    "mixnmatch-paper-dogs": "mixnmatch.paper.presets:DOGS",
    "mixnmatch-paper-cars": "mixnmatch.paper.presets:CARS",
    "yolact-fast-320": "training.segmentation.yolact.presets:FAST_320",
    **{
        name.replace("_", "-"): f"training.segmentation.yolact.presets:{name.removeprefix('yolact_').upper()}"
        for name in (
            "yolact_base",
            "yolact_im400",
            "yolact_im700",
            "yolact_resnet50",
            "yolact_resnet50_pascal",
            "yolact_darknet53",
            "yolact_plus_base",
            "yolact_plus_resnet50",
            "yolact_edge",
            "yolact_edge_resnet50",
            "yolact_edge_mobilenetv2",
            "yolact_edge_youtubevis_resnet50",
            "yolact_edge_trainflow",
            "yolact_edge_trainflow_resnet50",
            "yolact_edge_vid",
            "yolact_edge_vid_resnet50",
        )
    },
}
"""Preset -> dotted name of a train config, whose `family` says which recipe it is for."""


class Official(NamedTuple):
    """How the authors' own checkpoint of a family is known and read."""

    marks: str
    """Regular expression of a top-level key that its files have and those of others do not."""
    most: int
    """Files that make one checkpoint, at most."""
    reader: str
    """Dotted name of a function from these files to a generator."""
    preset: str
    """A preset whose training pictures were cut as the authors' were."""


OFFICIAL: dict[str, Official] = {
    "giraffe_hd_paper": Official("g_ema", 1, "giraffe_hd.official:read", "giraffe-hd-paper-compcar-256"),
    "mixnmatch_paper": Official(
        r"(module\.)?(background_stage|model_z|first)\..+", 3, "mixnmatch.official:read", "mixnmatch-paper-cub"
    ),
    "yolact": Official(
        r"(module\.)?(backbone|fpn|proto_net|prediction_layers|layers)\..+",
        1,
        "training.segmentation.yolact.official:read",
        "yolact-base",
    ),
}
"""Family -> the authors' checkpoints, for `python -m training import-official`."""


def resolve(dotted: str) -> Any:
    """Return the object that `package.module:name` names."""
    module, _, name = dotted.partition(":")
    return getattr(import_module(module), name)


def look_up(table: dict[str, Any], name: str, what: str) -> Any:
    """Return `table[name]`; ValueError that lists the known names if it is not there."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(sorted(table))}")
    return table[name]


def preset(name: str, data: Path | None = None) -> Any:
    """Return the train config called `name`, as it suits the prepared set `data`, where one is given and says how.

    Such a config has a method `suited`, which takes what the set's `set.json` holds, or `for_folder`, which takes its
    folder.
    """
    config = resolve(look_up(PRESETS, name, "preset"))
    if data is not None and hasattr(config, "for_folder"):
        return config.for_folder(data)
    about = None if data is None else data / "set.json"
    if about is None or not about.is_file() or not hasattr(config, "suited"):
        return config
    return config.suited(json.loads(about.read_text(encoding="utf-8")))
