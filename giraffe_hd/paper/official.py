"""Read the authors' GIRAFFE HD checkpoints: a `.pt` file whose `g_ema` are weights and whose `args` say the config.

Nothing that the file holds is executed: only tensors, plain values and `argparse.Namespace` are let through.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from giraffe_hd.paper.config import GeneratorConfig, PriorConfig, VolumeConfig
from giraffe_hd.paper.generator import Generator
from training.foreign import tables
from training.official import read_plain

RENAMED = (
    ("vol_generator.decoder.", "object_field."),
    ("vol_generator.background_generator.", "background_field."),
    ("styles.0.", "mapping_fg."),
    ("styles.1.", "mapping_bg."),
    ("dense_layers.", ""),
    ("feat_layers.", ""),
    ("_skips.0.", "_skip."),
)
"""Parts of the authors' names and ours, applied in this order."""

ARGUMENTS = (
    "z_dim",
    "z_dim_bg",
    "feat_dim",
    "n_mlp",
    "lr_mlp",
    "refine_n_styledconv",
    "mix_prob",
    "grf_use_mlp",
    "grf_use_z_app",
    "use_viewdirs",
    "pos_share",
    "fg_gen_mask",
)
"""Arguments that our config calls the same; those that a file lacks keep the authors' default, which is ours."""

REQUIRED = ("size", "scale_range_min", "scale_range_max", "translation_range_min", "rotation_range", "range_v", "fov")


def read(path: str | Path) -> Generator:
    """Return the generator of an authors' file, in evaluation mode on the CPU.

    Raises: ValueError if the file is not a whole GIRAFFE HD checkpoint, or its weights do not fit its arguments.
    """
    path = Path(path)
    state, args = _open(path)
    try:
        config = config_of(args, state)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"the arguments of {path.name} make no GIRAFFE HD: {where} {first['msg']}") from error
    except ValueError as error:
        raise ValueError(f"the arguments of {path.name} make no GIRAFFE HD: {error}") from error
    with torch.device("meta"):  # shapes only, so that a file of false sizes takes no memory
        generator = Generator(config)
    weights = _fixed_noise(renamed(state), generator)
    try:
        generator.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[1].strip()
        raise ValueError(f"the weights of {path.name} do not fit its arguments: {reason}") from error
    bad = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise ValueError(f"{path.name} holds weights that are not numbers, first in {bad[0]}; copy it again")
    return generator.requires_grad_(False).eval()


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of `g_ema` and the arguments."""
    content = read_plain(path)
    found = [table for _, table in tables(content)]
    state = next((table["g_ema"] for table in found if "g_ema" in table), None)
    args = next((table["args"] for table in found if "args" in table), None)
    if state is None or args is None:
        raise ValueError(f"{path.name} is not a GIRAFFE HD checkpoint: it has no entries g_ema and args")
    if not isinstance(args, argparse.Namespace | Mapping):
        raise ValueError(f"{path.name} is not a GIRAFFE HD checkpoint: its args are a {type(args).__name__}")
    within = [table for _, table in tables(state)]
    state = next((t for t in within if any(isinstance(v, Tensor) for v in t.values())), within[0] if within else None)
    if state is None or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path.name} is not a GIRAFFE HD checkpoint: its g_ema is not a table of tensors")
    args = dict(args) if isinstance(args, Mapping) else dict(vars(args))
    missing = [name for name in REQUIRED if name not in args]
    if missing:
        raise ValueError(f"{path.name} is not a GIRAFFE HD checkpoint: its args lack {', '.join(missing)}")
    return {str(name): tensor.float() for name, tensor in state.items()}, args


def config_of(args: Mapping[str, Any], state: Mapping[str, Tensor]) -> GeneratorConfig:
    """Return the config that the authors' arguments describe.

    Raises: ValueError (pydantic's among them) for arguments out of range or of a wrong type.
    """
    prior = {
        "scale_min": args["scale_range_min"],
        "scale_max": args["scale_range_max"],
        "translation_min": args["translation_range_min"],
        "translation_max": args.get("translation_range_max", args["translation_range_min"]),
        "rotation": args["rotation_range"],
        "u": args.get("range_u", (0.0, 0.0)),
        "v": args["range_v"],
        "fov": args["fov"],
        "background_translation_min": args.get("bg_translation_range_min", (0.0, 0.0, 0.0)),
        "background_translation_max": args.get("bg_translation_range_max", (0.0, 0.0, 0.0)),
        "background_rotation": args.get("bg_rotation_range", (0.0, 0.0)),
    }
    values = {name: args[name] for name in ARGUMENTS if name in args}
    values["resolution"] = args["size"]
    values["refine_kernel_size"] = args.get("refine_kernal_size", 3)  # the authors' spelling
    values["channel_multiplier"] = _channel_multiplier(args, state)
    values["volume"] = TypeAdapter(VolumeConfig).validate_python(
        {"resolution": args.get("res_vol", args.get("resolution_vol", 16))}
    )
    values["joint_cameras"] = True
    values["prior"] = TypeAdapter(PriorConfig).validate_python(prior)
    return TypeAdapter(GeneratorConfig).validate_python(values)


def _channel_multiplier(args: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    """Return the multiplier that the weights show: the authors' training passed theirs to the discriminator alone."""
    last = state.get("refine_renderer.to_rgb.conv.weight")
    size = args["size"]
    if last is None or last.ndim != 5 or not isinstance(size, int) or size < 128:
        return args.get("channel_multiplier", 2)
    return last.shape[2] * size // 16384


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the authors' tensors under our names."""
    ours = {}
    for name, tensor in state.items():
        for theirs, our in RENAMED:
            name = name.replace(theirs, our)
        ours[_noise_name(name)] = tensor
    return ours


def _noise_name(name: str) -> str:
    """Return where we keep `<renderer>.noises.noise_<k>`: in the k-th convolution."""
    renderer, marker, number = name.partition(".noises.noise_")
    if not marker or not number.isdigit():
        return name
    k = int(number)
    if renderer == "refine_renderer":
        return f"{renderer}.convs.{k}.noise.fixed"
    return f"{renderer}.conv1.noise.fixed" if k == 0 else f"{renderer}.convs.{k - 1}.noise.fixed"


def _fixed_noise(weights: dict[str, Tensor], generator: Generator) -> dict[str, Tensor]:
    """Return `weights` with fixed noise of the right sizes.

    The authors' program sizes these maps for 16 x 16 rays whatever the resolution; where they cannot have been used,
    others take their place, the same at every import.
    """
    wanted = {name: tensor.shape for name, tensor in generator.state_dict().items() if name.endswith("noise.fixed")}
    rng = torch.Generator().manual_seed(0)
    for name, shape in wanted.items():
        if name in weights and weights[name].shape != shape and generator.config.volume.resolution != 16:
            weights[name] = torch.randn(shape, generator=rng)
    return weights
