"""Begin from the object, the renderer and the discriminator that a fast GIRAFFE HD has learned.

Both families look at a field in a box, style its renderer by a code and compare pictures of like pose, so that only the
codes differ: MixNMatch's shapes and textures begin as the means of as many clusters of the other's styles.
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
"""Parts of a fast GIRAFFE HD that are used here."""
_RENDERER = ("first", "blocks.0.0", "blocks.0.1")
"""Convolutions of the GIRAFFE HD's object renderer, in our order."""
_POSE = (1, 0, 2, 3, 4, 5)
"""Where our pose (cosine, sine, elevation, size, right, down) stands in theirs (sine, cosine, ..., right, up)."""


def is_giraffe(theirs: Mapping[str, Tensor]) -> bool:
    """Return whether these are the weights of a fast GIRAFFE HD. Raises: ValueError if they are only in part."""
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
    """Raise ValueError if weights made of a GIRAFFE HD's would be left out, for want of a place or of its shape.

    The image discriminator's levels are matched by place (`training.warm_start`): it may look at larger pictures.
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

    What MixNMatch adds to its features and to its renderer's last layer begins without effect.

    Theirs should double its rays once, as ours does, which weights do not tell: one with as many rays as pixels is
    taken over too, and its objects look different at first. Raises: ValueError if their renderer has not one block.
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
    """Return the weights with which encoders begin as the image discriminator: what it sees of a picture by itself."""
    prefix, parts = "image_discriminator.", ("read.", "levels.", "mix.", "flat.")
    ours = {
        f"generator.encoders.trunk.{name.removeprefix(prefix)}": tensor
        for name, tensor in theirs.items()
        if name.startswith(prefix) and name.removeprefix(prefix).startswith(parts)
    }
    if (mix := ours.get("generator.encoders.trunk.mix.weight")) is not None:
        channels = mix.shape[0]  # the last input is the batch's deviation
        ours["generator.encoders.trunk.mix.weight"] = mix[:, :channels] * (channels / mix.shape[1]) ** 0.5
    return ours


def _styles(theirs: Mapping[str, Tensor], which: str, n: int) -> Float[Tensor, "n width"]:
    """Return the means of `n` clusters among 4096 styles that their mapping network draws."""
    prefix = f"generator.map_{which}."
    weights = {name.removeprefix(prefix): tensor for name, tensor in theirs.items() if name.startswith(prefix)}
    width, z_dim = weights["1.weight"].shape
    mapping = StyleMapping(z_dim, width, sum(name.endswith(".weight") for name in weights))
    mapping.load_state_dict(weights)
    points = mapping(torch.randn(4096, z_dim, generator=torch.Generator().manual_seed(0))).double().numpy()
    means, _ = kmeans2(points, points[:n], minit="matrix")
    return torch.from_numpy(means).float()


def _turn_pose(ours: dict[str, Tensor]) -> None:
    """Bring the discriminator's pose into our order and our direction of down."""
    if "image_discriminator.pose.weight" not in ours:
        return
    sign = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, -1.0])
    order = list(_POSE)
    ours["image_discriminator.pose.weight"] = ours["image_discriminator.pose.weight"][order] * sign[:, None]
    ours["image_discriminator.pose.bias"] = ours["image_discriminator.pose.bias"][order] * sign
    ours["image_discriminator.given.weight"] = ours["image_discriminator.given.weight"][:, order] * sign


def _see_opacity(ours: dict[str, Tensor]) -> None:
    """Let the first convolution take the opacity, our feature's first channel, as an input of no weight."""
    prefix = "generator.child.convs.0."
    weight = ours[prefix + "weight"]
    channels = weight.shape[2]
    silent = torch.zeros_like(weight[:, :, :1])
    grown = torch.cat([silent, weight], 2) * ((channels + 1) / channels) ** 0.5  # equalised: scaled by its inputs
    ours[prefix + "weight"] = grown
    modulation, bias = ours[prefix + "modulation.weight"], ours[prefix + "modulation.bias"]
    ours[prefix + "modulation.weight"] = torch.cat([torch.zeros_like(modulation[:1]), modulation])
    ours[prefix + "modulation.bias"] = torch.cat([torch.ones_like(bias[:1]), bias])


def _last_layer(theirs: Mapping[str, Tensor], ours: dict[str, Tensor]) -> None:
    """Put their 1 x 1 colours into the middle of our 3 x 3 colours and mask; the mask, at first, is the shape's."""
    prefix = "generator.object.to_rgb."
    colours = theirs[prefix + "conv.weight"]
    _, _, channels, _, _ = colours.shape
    weight = torch.zeros(1, 4, channels, 3, 3)
    weight[:, :3, :, 1, 1] = 3 * colours[..., 0, 0]  # equalised: 9 times the inputs
    ours["generator.child.head.weight"] = weight
    for name in ("weight", "bias"):
        ours[f"generator.child.head.modulation.{name}"] = theirs[prefix + f"conv.modulation.{name}"]
    width = ours["generator.child.head.modulation.weight"].shape[1]
    ours["generator.child.tint.weight"] = torch.zeros(4, width)
    ours["generator.child.tint.bias"] = torch.cat([theirs[prefix + "bias"].flatten(), torch.zeros(1)])
