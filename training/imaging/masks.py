"""Reads masks in any common encoding: grey, bits, class numbers, palettes, alpha. Imports no torch.

The result has 0 for the background and 255 for the object; ambiguous files are refused.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from training.imaging.read import BYTES_A_PIXEL, Decoded, Limits, PictureError, guarded, header, orientation_of

WANTED = "expected 0 for the background and 255 for the object"
VOID = 255
"""Class number of the border around objects (Pascal VOC)."""
KEPT_PIXELS = 4_000_000
"""Masks with more pixels are reduced before they are read."""
SURE = 0.97
"""Share of pixels near black or white from which a picture counts as a mask."""


def decode_mask(data: bytes, name: str, limits: Limits, allowed: Callable[[int], None]) -> Decoded:
    """Return the mask in a file's bytes as grey, 255 on the object. Raises: PictureError if it is ambiguous."""

    def read() -> Decoded:
        picture = _loaded(data, name, limits, allowed)
        told = orientation_of(picture)
        return Decoded(picture=PIL.Image.fromarray(meaning(_small(picture), name)), size=picture.size, orientation=told)

    return guarded(data, name, limits, read)


def _loaded(data: bytes, name: str, limits: Limits, allowed: Callable[[int], None]) -> PIL.Image.Image:
    """Return a picture in its stored mode and orientation."""
    picture = header(data, name, limits)
    pixels = picture.width * picture.height
    allowed(pixels * BYTES_A_PIXEL.get(picture.format or "", 5) + 32 * min(pixels, KEPT_PIXELS))
    picture.load()
    return picture


def _small(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Return a picture of at most `KEPT_PIXELS` pixels, reduced without interpolation."""
    scale = math.sqrt(KEPT_PIXELS / (picture.width * picture.height))
    if scale >= 1:
        return picture
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, PIL.Image.Resampling.NEAREST)


def look(data: bytes, name: str, limits: Limits, allowed: Callable[[int], None]) -> bool:
    """Whether a file looks like a mask and not like a photo. Raises: PictureError if it cannot be read."""
    return guarded(data, name, limits, lambda: looks_like_mask(_loaded(data, name, limits, allowed)))


def meaning(picture: PIL.Image.Image, name: str) -> UInt8[np.ndarray, "h w"]:
    """Return the object's share of each pixel, 0 to 255. Raises: PictureError if the encoding is ambiguous."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = np.asarray(picture.getchannel("A"))
        if alpha.min() < alpha.max():
            return _with_alpha(picture, alpha, name)
        picture = picture.convert("RGB")
    if picture.mode == "P":
        return _palette(picture, name)
    if picture.mode in ("1", "L", "F") or picture.mode.startswith("I"):
        return _levels(np.asarray(picture), name)
    return _colours(np.asarray(picture.convert("RGB")), name)


def _with_alpha(picture: PIL.Image.Image, alpha: UInt8[np.ndarray, "h w"], name: str) -> UInt8[np.ndarray, "h w"]:
    """Return the mask of a picture with transparency: its alpha, if its colours do not encode another one."""
    rgb = np.asarray(picture.convert("RGB"))
    seen = rgb[alpha > 127]
    if seen.size and (seen == seen[0]).all():
        return alpha  # one colour, cut out: white on nothing, or black on nothing
    if not looks_like_mask(picture.convert("RGB")):
        return alpha  # the photo itself, cut out
    try:
        shown = _colours(rgb, name)
    except PictureError:
        return alpha
    if ((shown > 127) == (alpha > 127)).mean() > 0.99:
        return alpha
    raise PictureError(f"{name} is one mask in its colours and another in its transparency; {WANTED}, in grey.")


def _palette(picture: PIL.Image.Image, name: str) -> UInt8[np.ndarray, "h w"]:
    """Return the mask of a picture with a palette: by its colours if they are distinct, else by its indices."""
    numbers = np.asarray(picture)
    colours = np.asarray(picture.convert("RGB"))
    used = np.unique(numbers)
    distinct = np.unique(colours.reshape(-1, 3), axis=0)
    if len(distinct) < len(used):
        return _levels(numbers, name)
    return _colours(colours, name)


def _colours(rgb: UInt8[np.ndarray, "h w 3"], name: str) -> UInt8[np.ndarray, "h w"]:
    """Return the mask of a colour picture: its grey values if it is grey, else all that is not black."""
    apart = rgb.max(-1).astype(int) - rgb.min(-1)
    if (apart > 24).mean() < 0.002:
        return _levels(rgb.max(-1), name)
    kinds, counts = np.unique((rgb >> 4).reshape(-1, 3), axis=0, return_counts=True)
    black = (rgb.max(-1) < 32).mean()
    least = 0.003 * rgb[..., 0].size
    others = [kind for kind, count in zip(kinds, counts, strict=True) if kind.max() >= 2 and count > least]
    void = [kind for kind in others if kind.min() >= 12]  # near white: the border in Pascal VOC's palette
    objects = [kind for kind in others if not any(kind is v for v in void)]
    if black < 0.01 or len(objects) > 1:
        raise PictureError(f"{name} has {len(kinds)} colours, and which is the object is not certain; {WANTED}.")
    if not objects:
        return (255 * (rgb.max(-1) >= 128)).astype(np.uint8)
    near = np.abs((rgb >> 4).astype(int) - objects[0]).max(-1) <= 1
    return (255 * near).astype(np.uint8)


def _levels(values: np.ndarray, name: str) -> UInt8[np.ndarray, "h w"]:
    """Return the mask of one channel of any range."""
    values = np.nan_to_num(values.astype(np.float32))
    low, high = float(values.min()), float(values.max())
    if low < 0 or (low == high):
        if low == high:
            whole = "empty" if high <= 0 else "full"
            raise PictureError(f"{name} is {whole}: all its pixels are {high:g}; {WANTED}.")
        raise PictureError(f"{name} holds numbers from {low:g} to {high:g}; {WANTED}.")
    if high > VOID:
        values, high = values * (VOID / (65535 if high > 4095 else high)), 255.0
    if high <= 1:
        return (values * 255).round().astype(np.uint8)
    kinds, counts = np.unique(values.round(), return_counts=True)
    shares = dict(zip(kinds.tolist(), (counts / values.size).tolist(), strict=True))
    if len(kinds) == 2 and low == 0:
        return np.where(values > 0, 255, 0).astype(np.uint8)
    classes = [kind for kind in kinds.tolist() if 0 < kind < 32 and shares[kind] > 0.003]
    few = len(kinds) <= 24 and high < 64
    labelled = len(kinds) <= 8 and classes and max(shares[kind] for kind in classes) > shares.get(255.0, 0.0)
    if few or labelled:
        if len(classes) == 1 and low == 0 and set(kinds.tolist()) <= {0.0, classes[0], 255.0}:
            return np.where(values.round() == classes[0], 255, 0).astype(np.uint8)
        raise PictureError(
            f"{name} holds the numbers {', '.join(f'{kind:g}' for kind in kinds[:5])}, and which is the object is not "
            f"certain; {WANTED}."
        )
    if high < 128 or low >= 64:
        raise PictureError(f"{name} holds numbers from {low:g} to {high:g}; {WANTED}.")
    return values.round().clip(0, 255).astype(np.uint8)


def looks_like_mask(picture: PIL.Image.Image) -> bool:
    """Whether a picture consists of two flat colours, as masks do."""
    small = picture.resize(
        tuple(max(1, math.ceil(side / max(1, max(picture.size) // 128))) for side in picture.size),  # type: ignore[arg-type]
        PIL.Image.Resampling.NEAREST,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if small.has_transparency_data:
            alpha = np.asarray(small.convert("RGBA").getchannel("A"))
            if _two_levels(alpha) and len(np.unique(np.asarray(small.convert("RGB")).reshape(-1, 3), axis=0)) <= 4:
                return True
        if small.mode.startswith("I") or small.mode == "F":
            values = np.asarray(small).astype(np.float32)
            return len(np.unique(values)) in (2, 3)
        rgb = np.asarray(small.convert("RGB"))
    colours, counts = np.unique(rgb.reshape(-1, 3), axis=0, return_counts=True)
    if len(colours) < 2:
        return False
    first, second = colours[np.argsort(counts)[-2:]].astype(int)
    apart = np.abs(first - second).max() >= 60 or colours.max() < 32  # or numbers of classes
    if len(colours) <= 6 and np.sort(counts)[-2] > 0.005 * counts.sum() and apart:
        return True
    grey = rgb.max(-1).astype(int) - rgb.min(-1)
    return bool((grey > 24).mean() < 0.01) and _two_levels(rgb.max(-1))


def _two_levels(values: UInt8[np.ndarray, "h w"]) -> bool:
    """Whether nearly all values are near 0 or near 255, and both occur."""
    dark, light = (values < 40).mean(), (values > 215).mean()
    return bool(dark + light >= SURE and min(dark, light) > 0.003)


def bounds(mask: PIL.Image.Image) -> tuple[int, int, int, int] | None:
    """Return left, top, right and bottom of what a grey mask covers by more than half; None where it covers nothing."""
    return mask.point([255 * (value > 127) for value in range(256)]).getbbox()
