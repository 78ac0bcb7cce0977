"""Initialise a `fast` MixNMatch from the object, the renderer and the discriminator of a fast GIRAFFE HD.

Both families render a field in a box, modulate its renderer by a style and condition their discriminator on the pose;
only the codes differ. MixNMatch's shapes and textures start as the means of as many clusters of GIRAFFE HD's styles.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from mixnmatch.fast.config import GeneratorConfig
from training.nn.layers import Mapping as StyleMapping

_OBJECT = {
    "generator.field.": "generator.parent.space.field.",
    "generator.head.": "generator.parent.space.head.",
    "discriminator.": "image_discriminator.",
}
_NEEDED = ("generator.field.", "generator.head.", "generator.object.", "generator.map_shape.", "generator.map_look.")
"""Prefixes of the weights of a fast GIRAFFE HD that are needed here."""
_RENDERER = ("first", "blocks.0.0", "blocks.0.1")
"""Convolutions of GIRAFFE HD's object renderer, in MixNMatch's order."""
_POSE = (1, 0, 2, 3, 4, 5)
"""Index into GIRAFFE HD's pose (sine, cosine, ..., right, up) of MixNMatch's (cosine, sine, elevation, size, right,
down)."""


def is_giraffe(theirs: Mapping[str, Tensor]) -> bool:
    """Return whether these are the weights of a fast GIRAFFE HD. Raises: ValueError if some of its parts are
    missing."""
    found = {part: any(name.startswith(part) for name in theirs) for part in _NEEDED}
    if missing := [part.rstrip(".") for part, there in found.items() if not there]:
        if len(missing) == len(found):
            return False
        raise ValueError(
            f"these weights are those of a fast GIRAFFE HD in part: {', '.join(missing)} is missing; give a run folder "
            f"or generator file that this version has written"
        )
    return True


def check_fit(ours: Mapping[str, Tensor], networks: nn.Module) -> None:
    """Raise ValueError if a weight taken from a GIRAFFE HD has no counterpart, or one of another shape.

    The image discriminator is not checked: `training.warm_start` matches its levels, as its pictures may be larger.
    """
    places = networks.state_dict()
    for name, tensor in ours.items():
        if name.startswith("image_discriminator."):
            continue
        shape = tuple(places[name].shape) if name in places else "none"
        if shape != tuple(tensor.shape):
            raise ValueError(
                f"this GIRAFFE HD does not fit: {name} is {tuple(tensor.shape)}, expected {shape}; give the MixNMatch "
                f"the same sizes (generator.field-dim, field-depth, octaves, feature-dim, texture-dim, style-dim)"
            )


@torch.no_grad()
def from_giraffe(theirs: Mapping[str, Tensor], config: GeneratorConfig) -> dict[str, Tensor]:
    """Return a GIRAFFE HD's weights under the names, and in the order, of MixNMatch's networks.

    Weights that MixNMatch adds to the features and to the renderer's last layer are 0, so that they have no effect.

    The GIRAFFE HD should double its rays once, as MixNMatch does; the weights do not show whether it does. One with as
    many rays as pixels is accepted, and its objects look different at first.

    Raises: ValueError if its renderer has more or fewer blocks than one.
    """
    blocks = len({name.split(".")[3] for name in theirs if name.startswith("generator.object.blocks.")})
    if blocks != 1:
        raise ValueError(
            f"this GIRAFFE HD's renderer has {blocks} blocks, MixNMatch's has one: give a GIRAFFE HD with two "
            f"object_channels"
        )
    ours = {}
    for name, tensor in theirs.items():
        for old, new in _OBJECT.items():
            if name.startswith(old):
                ours[new + name.removeprefix(old)] = tensor
    _turn_pose(ours)
    for i, place in enumerate(_RENDERER):
        layer = f"generator.object.{place}."
        ours |= {
            f"generator.child.convs.{i}.{name.removeprefix(layer + 'conv.')}": tensor
            for name, tensor in theirs.items()
            if name.startswith(layer + "conv.")
        }
        ours[f"generator.child.biases.{i}"] = theirs[layer + "activate.bias"].view(1, -1, 1, 1)
    _see_opacity(ours)
    _last_layer(theirs, ours)
    shapes, looks = _styles(theirs, "shape", config.n_shapes), _styles(theirs, "look", config.n_textures)
    width = shapes.shape[1]
    return ours | {
        "generator.parent.embed.weight": shapes.T.contiguous(),
        "generator.parent.embed.bias": torch.zeros(width),
        "generator.parent.free.weight": torch.zeros(width, config.z_dim - config.pose.n_placing),
        "generator.parent.free.bias": torch.zeros(width),
        "generator.parent.head.weight": torch.zeros(2, config.texture_dim // 2, 3, 3),
        "generator.child.embed.weight": looks.T.contiguous(),
        "generator.child.embed.bias": torch.zeros(width),
    }


def encoder_weights(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights that initialise the encoders' trunk from the image discriminator, without its minibatch
    deviation."""
    prefix, parts = "image_discriminator.", ("read.", "levels.", "mix.", "flat.")
    ours = {
        f"generator.encoders.trunk.{name.removeprefix(prefix)}": tensor
        for name, tensor in theirs.items()
        if name.startswith(prefix) and name.removeprefix(prefix).startswith(parts)
    }
    if (mix := ours.get("generator.encoders.trunk.mix.weight")) is not None:
        channels = mix.shape[0]  # the last input is the minibatch deviation
        ours["generator.encoders.trunk.mix.weight"] = mix[:, :channels] * (channels / mix.shape[1]) ** 0.5
    return ours


def _styles(theirs: Mapping[str, Tensor], which: str, n: int) -> Float[Tensor, "n width"]:
    """Return the means of `n` clusters of 4096 styles w from their mapping network."""
    prefix = f"generator.map_{which}."
    weights = {name.removeprefix(prefix): tensor for name, tensor in theirs.items() if name.startswith(prefix)}
    width, z_dim = weights["1.weight"].shape
    mapping = StyleMapping(z_dim, width, sum(name.endswith(".weight") for name in weights))
    mapping.load_state_dict(weights)
    points = mapping(torch.randn(4096, z_dim, generator=torch.Generator().manual_seed(0))).double().numpy()
    means, _ = kmeans2(points, points[:n], minit="matrix")
    return torch.from_numpy(means).float()


def _turn_pose(ours: dict[str, Tensor]) -> None:
    """Reorder the discriminator's pose to MixNMatch's, where y points down."""
    if "image_discriminator.pose.weight" not in ours:
        return
    sign = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, -1.0])
    order = list(_POSE)
    ours["image_discriminator.pose.weight"] = ours["image_discriminator.pose.weight"][order] * sign[:, None]
    ours["image_discriminator.pose.bias"] = ours["image_discriminator.pose.bias"][order] * sign
    ours["image_discriminator.given.weight"] = ours["image_discriminator.given.weight"][:, order] * sign


def _see_opacity(ours: dict[str, Tensor]) -> None:
    """Add an input of weight 0 to the first convolution, for the opacity in the feature's first channel."""
    prefix = "generator.child.convs.0."
    weight = ours[prefix + "weight"]
    channels = weight.shape[2]
    silent = torch.zeros_like(weight[:, :, :1])
    grown = (
        torch.cat([silent, weight], 2) * ((channels + 1) / channels) ** 0.5
    )  # equalised learning rate: scaled by the number of inputs
    ours[prefix + "weight"] = grown
    modulation, bias = ours[prefix + "modulation.weight"], ours[prefix + "modulation.bias"]
    ours[prefix + "modulation.weight"] = torch.cat([torch.zeros_like(modulation[:1]), modulation])
    ours[prefix + "modulation.bias"] = torch.cat([torch.ones_like(bias[:1]), bias])


def _last_layer(theirs: Mapping[str, Tensor], ours: dict[str, Tensor]) -> None:
    """Put their 1 x 1 colour weights into the centre of the 3 x 3 head; the mask's are 0, so that C_m starts as P_m's
    share."""
    prefix = "generator.object.to_rgb."
    colours = theirs[prefix + "conv.weight"]
    _, _, channels, _, _ = colours.shape
    weight = torch.zeros(1, 4, channels, 3, 3)
    weight[:, :3, :, 1, 1] = 3 * colours[..., 0, 0]  # equalised learning rate: 9 times as many inputs
    ours["generator.child.head.weight"] = weight
    for name in ("weight", "bias"):
        ours[f"generator.child.head.modulation.{name}"] = theirs[prefix + f"conv.modulation.{name}"]
    width = ours["generator.child.head.modulation.weight"].shape[1]
    ours["generator.child.tint.weight"] = torch.zeros(4, width)
    ours["generator.child.tint.bias"] = torch.cat([theirs[prefix + "bias"].flatten(), torch.zeros(1)])
