"""Layers as pictures and files: views for the page, RGBA and depth PNGs, OpenRaster."""

import io
import zipfile
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from psd_tools import PSDImage
from torch import Tensor, nn

from demo.recipes import RECIPE_IN_ORA, PictureRecipe, png, to_json
from training.batched import fields_of
from training.pictures import to_pil
from training.types import Image, Mask

SHARP = 128
"""Side in pixels up to which live pictures are lossless."""
HIDDEN_IN_STACK = ("image", "background", "foreground")
"""Layers that the OpenRaster stack holds in another form."""


def parts(layers: Any) -> dict[str, Tensor]:
    """Return the layers that there are by name, the picture first; those of several objects one by one, from 1 on."""
    found: dict[str, Tensor] = {"image": layers.image}
    for name, value in fields_of(layers).items():
        if name == "alpha" and value.shape[1] > 1:
            found |= {f"{name}_{i + 1}": value[:, i : i + 1] for i in range(value.shape[1])}
        elif value is not None:
            found.setdefault(name, value)
    return found


def views(layers: Any) -> dict[str, Image]:
    """Return every layer as a picture to look at, one size: masks in grey, near depths light, cut-outs on checks."""
    shown: dict[str, Image] = {}
    for name, value in parts(layers).items():
        if name == "foreground":
            value = layers.mask * value + (1 - layers.mask) * _checks(value)
        elif name == "depth":
            value = _near_light(value)
        elif value.shape[1] == 1:
            value = 2 * value - 1
        if value.shape[1] == 1:
            value = value.expand(-1, 3, -1, -1)
        if value.shape[2:] != layers.image.shape[2:]:
            value = nn.functional.interpolate(value, size=layers.image.shape[2:], mode="bilinear", align_corners=False)
        shown[name] = value
    return shown


def strip(layers: Any) -> PIL.Image.Image:
    """Return the views of one row side by side: what the live picture sends."""
    return to_pil(torch.cat(list(views(layers).values()), 3))[0]


def quick(picture: PIL.Image.Image) -> tuple[bytes, str]:
    """Return a picture as a file that is made, sent and opened in a few milliseconds, and its media type.

    Small pictures are shown many times enlarged, where JPEG's blocks would show: up to SHARP pixels high they are
    lossless WebP.
    """
    file = io.BytesIO()
    if picture.height <= SHARP:
        picture.save(file, "WEBP", lossless=True, quality=20, method=0)
        return file.getvalue(), "image/webp"
    picture.save(file, "JPEG", quality=92, subsampling=0)
    return file.getvalue(), "image/jpeg"


def cutout(layers: Any) -> PIL.Image.Image:
    """Return the object of one row with transparency (RGBA): over the background it gives the picture again."""
    mask = layers.mask
    if hasattr(layers, "foreground"):
        colour = layers.foreground
    elif not hasattr(layers, "background"):  # painted together with what is behind it
        colour = layers.image
    else:  # image = mask * colour + (1 - mask) * background, solved where there is some mask
        colour = (layers.image - (1 - mask) * layers.background) / mask.clamp(min=1e-3)
        colour = torch.where(mask > 1e-3, colour.clamp(-1, 1), layers.image)
    picture = to_pil(colour)[0]
    picture.putalpha(_grey(mask))
    return picture


def depth_png(layers: Any, recipe: PictureRecipe | None = None) -> bytes:
    """Return the depth of one row as a 16-bit PNG, near is light, 0 is nothing; its texts say the range in units."""
    depth = layers.depth[0, 0].float().cpu()
    hit = depth > 0
    near, far = (float(f(depth[hit])) if hit.any() else 0.0 for f in (torch.min, torch.max))
    share = (far - depth) / max(far - near, 1e-6)
    levels = torch.where(hit, 1 + 65534 * share.clamp(0, 1), torch.zeros(())).round().numpy().astype(np.uint16)
    texts = {"depth": f"65535 is {near:.6g} from the camera, 1 is {far:.6g}, 0 is nothing"}
    return png(PIL.Image.fromarray(levels), recipe, texts)


def layer_png(layers: Any, name: str, recipe: PictureRecipe | None = None) -> bytes:
    """Return one layer as a PNG file at full size: the foreground RGBA, masks in grey, depth in 16 bits.

    Raises: ValueError for a layer that there is not, with those there are.
    """
    found = parts(layers)
    if name not in found and name != "foreground":
        known = ", ".join(dict.fromkeys([*found, "foreground"]))
        raise ValueError(f"there is no layer {name[:40]!r}; this picture has {known}")
    if name == "foreground":
        return png(cutout(layers), recipe)
    if name == "depth":
        return depth_png(layers, recipe)
    value = found[name]
    return png(_grey(value) if value.shape[1] == 1 else to_pil(value)[0], recipe)


def stack_of(layers: Any) -> list[tuple[str, PIL.Image.Image, bool]]:
    """Return what a painting program shows of one row, the top first: name, picture, and whether it is seen.

    The object over the background gives the picture; the other layers are there, hidden. Where the generator paints
    both at once, the picture is one layer and the object in it another, hidden.
    """
    apart = hasattr(layers, "background")
    stack: list[tuple[str, PIL.Image.Image, bool]] = [("object", cutout(layers), apart)]
    behind = ("background", layers.background) if apart else ("picture", layers.image)
    stack.append((behind[0], to_pil(behind[1])[0], True))
    shown = views(layers)
    return stack + [(name, to_pil(shown[name])[0], False) for name in shown if name not in HIDDEN_IN_STACK]


def open_raster(layers: Any, recipe: PictureRecipe) -> bytes:
    """Return all layers of one row in one OpenRaster file, which GIMP and Krita open."""
    width, height = layers.image.shape[3], layers.image.shape[2]
    stack = stack_of(layers)
    entries = "".join(
        f'<layer name={quoteattr(name)} src={quoteattr(f"data/{name}.png")} x="0" y="0" opacity="1.0" '
        f'composite-op="svg:src-over" visibility="{"visible" if visible else "hidden"}"/>'
        for name, _, visible in stack
    )
    xml = f'<?xml version="1.0" encoding="UTF-8"?><image version="0.0.3" w="{width}" h="{height}"><stack>{entries}'
    merged = to_pil(layers.image)[0]
    thumbnail = merged.copy()
    thumbnail.thumbnail((256, 256))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "image/openraster", zipfile.ZIP_STORED)  # first and not packed: the format's rule
        archive.writestr("stack.xml", xml + "</stack></image>")
        for name, picture, _ in stack:
            archive.writestr(f"data/{name}.png", png(picture))
        archive.writestr("mergedimage.png", png(merged, recipe))
        archive.writestr("Thumbnails/thumbnail.png", png(thumbnail))
        archive.writestr(RECIPE_IN_ORA, to_json(recipe))
    return file.getvalue()


def photoshop(layers: Any) -> bytes:
    """Return all layers of one row in one PSD file, with the picture itself as its preview."""
    file = io.BytesIO()
    document = PSDImage.frompil(to_pil(layers.image)[0])
    for name, picture, visible in reversed(stack_of(layers)):  # from the bottom up
        document.create_pixel_layer(picture.convert("RGBA"), name=name).visible = visible
    document.save(file)
    return file.getvalue()


def _grey(mask: Mask) -> PIL.Image.Image:
    """Return one row's mask as an 8-bit grey picture."""
    return PIL.Image.fromarray((mask[0, 0].float() * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy())


def _checks(like: Image) -> Image:
    """Return a checkerboard of two greys, eight squares a side."""
    side = max(1, like.shape[3] // 8)
    y, x = torch.meshgrid(torch.arange(like.shape[2]), torch.arange(like.shape[3]), indexing="ij")
    light = (x // side + y // side) % 2 == 0
    return torch.where(light, 0.9, 0.7).to(like).expand_as(like)


def _near_light(depth: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Return depth as light in [-1, 1]: the nearest point 1, the farthest -0.6, nothing -1."""
    hit = depth > 0
    near = torch.where(hit, depth, torch.inf).amin((2, 3), keepdim=True)
    far = depth.amax((2, 3), keepdim=True)
    share = (far - depth) / (far - near).clamp(min=1e-6)
    return torch.where(hit, 1.6 * share - 0.6, -1.0)
