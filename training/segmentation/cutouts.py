"""Cut-outs of a photo: RGBA pictures with soft edges, masks, polygons and COCO JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import scipy.ndimage
from jaxtyping import Float, UInt8

from ..checkpoint import write_whole
from ..data.coco import CocoWriter
from ..data.mask_codes import to_polygons
from ..pictures import whole_file
from .contract import Instance, Pixels, SoftMask

TOLERANCE = 1.0
"""Pixels by which polygons may deviate from a mask's edge."""
BAND = 6
"""Width, in pixels of a 640 px photo, of the band around a mask's edge that is refined by the photo's edges."""


class Cut(NamedTuple):
    """One object, cut out."""

    rgba: UInt8[np.ndarray, "h w 4"]
    """The window around the object, with the object's colours at its soft edge."""
    mask: UInt8[np.ndarray, "h w"]
    """Of the whole photo, 0 to 255."""
    corner: tuple[int, int]
    """Where the window lies: x, y."""


def cut(image: Pixels, instance: Instance, *, refine: bool = True) -> Cut:
    """Return an instance as an RGBA picture with soft edges.

    `refine`: align the mask's edge with the photo's edges.
    """
    window = _window(instance, image.shape[:2])
    alpha, part = instance.mask[window], image[window]
    if refine:
        alpha = refined(part, alpha, max(2, round(BAND * max(image.shape[:2]) / 640)))
    colours = own_colours(part, alpha)
    shown = (alpha * 255 + 0.5).astype(np.uint8)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[window] = shown
    return Cut(np.dstack([colours, shown]), mask, (window[1].start, window[0].start))


def refined(image: Pixels, alpha: SoftMask, radius: int) -> SoftMask:
    """Return a mask whose edge follows the photo's within `radius` pixels (guided filter, He et al. 2010, on grey)."""
    band = scipy.ndimage.maximum_filter(alpha, 2 * radius + 1) - scipy.ndimage.minimum_filter(alpha, 2 * radius + 1)
    if not (band > 0.5).any():
        return alpha
    guide = image.mean(2, dtype=np.float32) / 255

    def mean(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        return scipy.ndimage.uniform_filter(values, 2 * radius + 1, mode="nearest")

    hard = (alpha > 0.5).astype(np.float32)
    about, share = mean(guide), mean(hard)
    slope = (mean(guide * hard) - about * share) / (mean(guide * guide) - about**2 + 1e-4)  # He et al., Eq. 5
    offset = share - slope * about
    soft = (mean(slope) * guide + mean(offset)).clip(0, 1)
    soft = ((soft - 0.1) / 0.8).clip(0, 1)  # nearly opaque or transparent pixels become fully so
    agree = np.abs(soft - alpha) < 0.75  # the mask is kept where the photo contradicts it
    return np.where((band > 0.5) & agree, soft, alpha).astype(np.float32)


def own_colours(image: Pixels, alpha: SoftMask) -> Pixels:
    """Return the photo with the colours at an object's soft edge replaced by those of its nearest opaque pixel.

    Otherwise the cut-out would have a rim of the background.
    """
    sure = alpha > 0.95
    core = np.asarray(scipy.ndimage.binary_erosion(sure, border_value=1), bool)  # a photo's edges are blurred too
    if not core.any():
        return image
    nearest = scipy.ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    filled = image[tuple(np.asarray(nearest))]
    return np.where((sure | (alpha == 0))[..., None], image, filled)


def without(image: Pixels, instances: Sequence[Instance]) -> UInt8[np.ndarray, "h w 4"]:
    """Return everything but some objects, as RGBA."""
    hidden = np.zeros(image.shape[:2], np.float32)
    for instance in instances:
        hidden = np.maximum(hidden, instance.mask)
    return np.dstack([image, ((1 - hidden) * 255 + 0.5).astype(np.uint8)])


def write_cutouts(
    image: Pixels,
    instances: Sequence[Instance],
    out: Path,
    name: str,
    *,
    file_name: str | None = "",
    refine: bool = True,
) -> dict[str, list[str]]:
    """Write a photo's objects into `out` in all formats; return the names of the files by kind.

    `file_name` is that of the photo, by default NAME.jpg; None for a photo whose file has other pixels (larger, or not
    upright): `NAME-photo.png` is written and named then.

    `NAME-K-LABEL.png` is cut-out K with soft edges, `NAME-K-LABEL-mask.png` its mask at the photo's size,
    `NAME-rest.png` everything but the objects, `NAME-polygons.json` outlines in pixels, `NAME-outlines.svg` the same to
    open in a drawing program, and `NAME-coco.json` boxes and masks as COCO instances JSON.
    """
    out.mkdir(parents=True, exist_ok=True)
    height, width = image.shape[:2]
    photo: dict[str, list[str]] = {}
    if file_name is None:
        file_name = f"{name}-photo.png"
        photo = {"photo": [file_name]}
        _save(out / file_name, image)
    file_name = file_name or f"{name}.jpg"
    writer = CocoWriter(sorted({instance.label for instance in instances}) or ["object"])
    number = writer.add_image(file_name, width, height)
    files: dict[str, list[str]] = {"cutouts": [], "masks": []}
    outlines = []
    for k, instance in enumerate(instances, 1):
        stem = f"{name}-{k}-{_plain(instance.label)}"
        found = cut(image, instance, refine=refine)
        binary = found.mask > 127
        if not binary.any():
            continue
        _save(out / f"{stem}.png", found.rgba)
        _save(out / f"{stem}-mask.png", found.mask)
        files["cutouts"].append(f"{stem}.png")
        files["masks"].append(f"{stem}-mask.png")
        writer.add(number, instance.label, binary, score=round(instance.score, 4))
        polygons = to_polygons(binary, TOLERANCE)
        outlines.append({"label": instance.label, "score": round(instance.score, 4), "polygons": polygons})
    _save(out / f"{name}-rest.png", without(image, instances))
    content = {"file_name": file_name, "width": width, "height": height, "objects": outlines}
    write_whole(out / f"{name}-polygons.json", (json.dumps(content, ensure_ascii=False) + "\n").encode())
    write_whole(out / f"{name}-outlines.svg", _svg(width, height, outlines).encode())
    writer.write(out / f"{name}-coco.json")
    return files | {
        "rest": [f"{name}-rest.png"],
        "polygons": [f"{name}-polygons.json", f"{name}-outlines.svg"],
        "coco": [f"{name}-coco.json"],
        **photo,
    }


def _window(instance: Instance, size: tuple[int, ...]) -> tuple[slice, slice]:
    """Return rows and columns of a photo around an instance's mask, a few pixels wider."""
    rows = np.flatnonzero(instance.mask.any(1))
    columns = np.flatnonzero(instance.mask.any(0))
    if len(rows) == 0:
        return slice(0, 1), slice(0, 1)
    rim = 2 + round(BAND * max(size[:2]) / 640)
    return (
        slice(max(0, int(rows[0]) - rim), min(size[0], int(rows[-1]) + 1 + rim)),
        slice(max(0, int(columns[0]) - rim), min(size[1], int(columns[-1]) + 1 + rim)),
    )


def _plain(label: str) -> str:
    """Return a label as part of a file's name."""
    return "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in label)[:40] or "object"


def _save(path: Path, pixels: UInt8[np.ndarray, "..."]) -> None:
    with whole_file(path) as temporary:
        PIL.Image.fromarray(pixels).save(temporary, compress_level=4)


def _svg(width: int, height: int, outlines: Sequence[dict]) -> str:
    """Return outlines as an SVG picture of the photo's size."""
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">']
    for k, outline in enumerate(outlines):
        path = " ".join(
            "M" + " L".join(f"{x:g},{y:g}" for x, y in zip(polygon[::2], polygon[1::2], strict=True)) + " Z"
            for polygon in outline["polygons"]
        )
        hue = k * 137 % 360
        label = outline["label"].replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
        lines.append(
            f'<path d="{path}" fill-rule="evenodd" fill="hsl({hue} 80% 50% / .4)"><title>{label}</title></path>'
        )
    return "\n".join([*lines, "</svg>", ""])
