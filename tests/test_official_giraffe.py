"""The authors' GIRAFFE HD checkpoints: pictures equal to their program's, and hostile files refused."""

import argparse
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from giraffe_hd.codes import Codes
from giraffe_hd.paper import official
from giraffe_hd.paper.config import GeneratorConfig
from giraffe_hd.paper.generator import Generator
from giraffe_hd.paper.official import config_of, read, renamed
from tests.conformance.cases import load_case, relative_error, write_compcar
from training.checkpoint import load_generator, save_generator
from training.official import family_of

TARGET = 5e-3
"""Root mean square of the difference over the output's standard deviation, as the case's own notes ask."""

ARGS: dict[str, Any] = {
    "size": 32,
    "res_vol": 16,
    "z_dim": 8,
    "z_dim_bg": 6,
    "feat_dim": 12,
    "channel_multiplier": 2,
    "scale_range_min": [0.2, 0.16, 0.16],
    "scale_range_max": [0.25, 0.2, 0.2],
    "translation_range_min": [-0.22, -0.12, -0.06],
    "translation_range_max": [0.22, 0.12, 0.08],
    "rotation_range": [0.0, 1.0],
    "range_u": [0.0, 0.0],
    "range_v": [0.41667, 0.5],
    "fov": 10,
    "pos_share": True,
    "fg_gen_mask": True,
    "bg_translation_range_min": [-0.2, -0.2, 0.0],
    "bg_translation_range_max": [0.2, 0.2, 0.0],
    "bg_rotation_range": [0.0, 0.0],
    "grf_use_mlp": True,
    "use_viewdirs": False,
    "grf_use_z_app": False,
}
"""Arguments of a checkpoint too small to have been trained."""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Generator, Codes, dict[str, Tensor]]:
    """The authors' CompCar case: their checkpoint as we import it, their inputs as our codes, all of their arrays."""
    path = tmp_path_factory.mktemp("official") / "compcar.pt"
    codes, arrays = write_compcar(path)
    return read(path), codes, arrays


def test_pictures_equal_the_authors(case):
    generator, codes, arrays = case
    seen: dict[str, Tensor] = {}

    def note(name: str, pick: Callable[[Any], Tensor]) -> Callable[..., None]:
        return lambda module, inputs, output: seen.update({name: pick(output)})

    hooks = [
        generator.fg_renderer.register_forward_hook(note("foreground_rgb", lambda output: output[0][:, :3])),
        generator.refine_renderer.register_forward_hook(note("foreground_residual", lambda output: output)),
        generator.fg_renderer.conv1.register_forward_pre_hook(
            lambda module, inputs: seen.update(foreground_features=inputs[0])
        ),
        generator.bg_renderer.conv1.register_forward_pre_hook(
            lambda module, inputs: seen.update(background_features=inputs[0])
        ),
    ]
    with torch.no_grad():
        layers = generator(codes, inject_index=2)
        seen |= {name: getattr(layers, name) for name in ("image", "foreground", "background", "mask")}
        seen["box_silhouette"] = generator.box_silhouette(codes, pad=0.1)
    for hook in hooks:
        hook.remove()
    assert seen.keys() == {name for name in arrays if not name.startswith("in_")}
    errors = {name: relative_error(output, arrays[name]) for name, output in seen.items()}
    assert max(errors.values()) <= TARGET, errors


def test_the_authors_cameras_are_joint(case):
    """Their program divides each camera's axes by the batch's longest: alone, the second picture is another one."""
    generator, codes, arrays = case
    own = Generator(replace(generator.config, joint_cameras=False)).eval()
    own.load_state_dict(generator.state_dict())
    with torch.no_grad():
        w = generator.styles(codes)
        errors = relative_error(own.object_features(codes, w).features, arrays["foreground_features"])
    assert errors > 20 * TARGET


def test_import_keeps_every_bit(case, tmp_path):
    generator = case[0]
    save_generator(tmp_path / "compcar.safetensors", generator)
    again = load_generator(tmp_path / "compcar.safetensors")
    assert again.config == generator.config
    for name, tensor in generator.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


OURS_TO_THEIRS = [
    ("object_field.", "vol_generator.decoder."),
    ("background_field.", "vol_generator.background_generator."),
    ("mapping_fg.", "styles.0."),
    ("mapping_bg.", "styles.1."),
    (".feat_view.", ".feat_layers.feat_view."),
    (".feat_out.", ".feat_layers.feat_out."),
    (".fc_view.", ".feat_layers.fc_view."),
    (".fc_z_view.", ".feat_layers.fc_z_view."),
    (".fc_in.", ".dense_layers.fc_in."),
    (".fc_z.", ".dense_layers.fc_z."),
    (".blocks.", ".dense_layers.blocks."),
    (".sigma_out.", ".dense_layers.sigma_out."),
    (".fc_z_skip.", ".dense_layers.fc_z_skips.0."),
    (".fc_p_skip.", ".dense_layers.fc_p_skips.0."),
    (".conv1.noise.fixed", ".noises.noise_0"),
]


def authors_state(generator: Generator) -> dict[str, Tensor]:
    state = {}
    for name, tensor in generator.state_dict().items():
        for ours, theirs in OURS_TO_THEIRS:
            name = name.replace(ours, theirs)
        renderer, marker, rest = name.partition(".convs.")
        if marker and rest.endswith(".noise.fixed"):
            k = int(rest.split(".")[0]) + (renderer != "refine_renderer")
            name = f"{renderer}.noises.noise_{k}"
        state[name] = tensor
    return state


def write(path: Path, args: dict[str, Any], state: dict[str, Tensor] | None = None) -> Path:
    if state is None:
        torch.manual_seed(0)
        config = config_of(args, {})
        state = authors_state(Generator(config).eval())
    torch.save({"g_ema": state, "args": argparse.Namespace(**args)}, path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_viewdirs": True},
        {"grf_use_z_app": True},
        {"fg_gen_mask": False, "pos_share": False},
        {"grf_use_mlp": False},
        {"size": 64, "use_viewdirs": True, "grf_use_z_app": True, "refine_n_styledconv": 1, "refine_kernal_size": 1},
    ],
    ids=str,
)
def test_settings_come_from_the_arguments(tmp_path, changes):
    args = ARGS | changes
    generator = read(write(tmp_path / "some.pt", args))
    config = generator.config
    assert (config.resolution, config.volume.resolution, config.prior.fov) == (args["size"], 16, 10)
    for name in ("use_viewdirs", "grf_use_z_app", "grf_use_mlp", "fg_gen_mask", "pos_share"):
        assert getattr(config, name) == args[name]
    assert config.refine_kernel_size == args.get("refine_kernal_size", 3)
    layers = generator(generator.sample(2, torch.Generator().manual_seed(0)))
    assert layers.image.shape == (2, 3, args["size"], args["size"])


def test_the_state_decides_the_channels(tmp_path):
    """The authors' training tells the discriminator alone what `channel_multiplier` was."""
    torch.manual_seed(0)
    args = ARGS | {"size": 128}
    state = authors_state(Generator(config_of(args, {})))
    path = write(tmp_path / "some.pt", args | {"channel_multiplier": 1}, state)
    assert read(path).config.channel_multiplier == 2


def test_noise_maps_of_other_ray_counts(tmp_path):
    """The authors' maps are sized for 16 x 16 rays whatever the count, so at 32 x 32 none of theirs can be used."""
    args = ARGS | {"size": 32, "res_vol": 32}
    torch.manual_seed(0)
    state = authors_state(Generator(config_of(args, {})))
    for name in state:
        if name.startswith(("fg_renderer.noises", "bg_renderer.noises")):
            side = 2 ** ((int(name[-1]) + 9) // 2)
            state[name] = torch.randn(1, 1, side, side)
    path = write(tmp_path / "some.pt", args, state)
    first, second = read(path), read(path)
    codes = first.sample(1, torch.Generator().manual_seed(0))
    assert torch.equal(first(codes).image, second(codes).image)


def test_every_authors_key_has_a_place(case):
    """No tensor of the manifest is left over, and none of ours is missing."""
    described, _ = load_case("giraffehd_compcar_128")
    manifest = described["checkpoint"]["g_ema"]
    ours = renamed({name: torch.empty(spec["shape"]) for name, spec in manifest.items()})
    state = case[0].state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in state.items()}


class Hostile:
    """Unpickled by plain pickle, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.path,))


def test_pickled_code_is_not_run(tmp_path):
    victim = tmp_path / "victim"
    torch.save({"g_ema": {}, "args": Hostile(victim)}, tmp_path / "hostile.pt")
    with pytest.raises(ValueError, match=r"hostile\.pt is refused"):
        read(tmp_path / "hostile.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Hostile(victim)))
    with pytest.raises(ValueError, match=r"plain\.pt is "):
        read(tmp_path / "plain.pt")
    assert not victim.exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
def test_a_cut_file_is_refused(tmp_path, kept):
    path = write(tmp_path / "cut.pt", ARGS)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ValueError, match=r"cut\.pt is not a whole PyTorch checkpoint"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": torch.zeros(3)}, "it has no entries g_ema and args"),
        (torch.zeros(3), "it has no entries g_ema and args"),
        ({"g_ema": {}, "args": 3}, "its args are a int"),
        ({"g_ema": 3, "args": argparse.Namespace(**ARGS)}, "its g_ema is not a table of tensors"),
        ({"g_ema": {}, "args": argparse.Namespace(size=64)}, "its args lack scale_range_min"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 1 << 20}, "expected powers of two to 1024 pixels"),
        ({"size": 48}, "expected powers of two"),
        ({"size": "large"}, "resolution Input should be a valid integer"),
        ({"z_dim": 10**12}, "z_dim is 1000000000000; expected 1 to 4096"),
        ({"scale_range_min": [0.2, 0.2]}, "scale_min"),
        ({"rotation_range": [1.0, 0.0]}, "give the lower number first"),
        ({"fov": None}, "fov Input should be a valid number"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, changes, message):
    state = authors_state(Generator(config_of(ARGS, {})))
    path = write(tmp_path / "odd.pt", ARGS | changes, state)
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert "odd.pt" in str(error.value)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    state = authors_state(Generator(config_of(ARGS, {})))
    name = "vol_generator.decoder.dense_layers.fc_in.weight"
    for changed in ({**state, name: torch.zeros(3, 3)}, {k: v for k, v in state.items() if k != name}):
        with pytest.raises(ValueError, match=r"do not fit its arguments: .*object_field\.fc_in\.weight"):
            read(write(tmp_path / "odd.pt", ARGS, changed))
    with pytest.raises(ValueError, match=r"weights that are not numbers, first in object_field\.fc_in\.weight"):
        read(write(tmp_path / "odd.pt", ARGS, {**state, name: state[name] * math.nan}))


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read(tmp_path / "none.pt")


def test_defaults_are_the_authors():
    """What old checkpoints do not say."""
    args = {name: ARGS[name] for name in official.REQUIRED}
    config = config_of(args | {"size": 256}, {})
    assert config == GeneratorConfig(resolution=256, prior=config.prior, joint_cameras=True)


@pytest.mark.parametrize("form", ["module", "state_dict", "model", "numpy"])
def test_the_forms_that_programs_save_it_in(tmp_path, form):
    torch.manual_seed(0)
    state = authors_state(Generator(config_of(ARGS, {})).eval())
    args = argparse.Namespace(**ARGS)
    content: dict[str, Any] = {"g_ema": state, "args": args}
    if form == "module":
        content["g_ema"] = {f"module.{name}": tensor for name, tensor in state.items()}
    elif form == "state_dict":
        content["g_ema"] = {"state_dict": state, "step": 4}
    elif form == "model":
        content = {"model": content, "where": Path("runs")}
    else:
        args.fov, args.rotation_range = np.float32(10), np.array([0.0, 1.0])
        content |= {"ada_aug_p": np.float64(0.1), "seen": np.int64(3), "kind": np.str_("car"), "done": np.bool_(True)}
    torch.save({"g_ema": state, "args": argparse.Namespace(**ARGS)}, tmp_path / "plain.pt")
    torch.save(content, tmp_path / "g.pt")
    ours, theirs = read(tmp_path / "g.pt"), read(tmp_path / "plain.pt")
    assert ours.config == theirs.config
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name


def test_the_raw_generator_alone_is_told_to_lack_the_average(tmp_path):
    torch.save({"g": {"x": torch.zeros(1)}, "args": argparse.Namespace(**ARGS)}, tmp_path / "g.pt")
    with pytest.raises(ValueError, match=r"its entries are g, args; GIRAFFE HD's has g_ema"):
        family_of(tmp_path / "g.pt")
