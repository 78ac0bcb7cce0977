"""Conversion between picture files and tensors: reading, cropping, tiling, writing."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import PIL.Image
import scipy.ndimage
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from training.imaging.decoders import DECODERS
from training.imaging.fill import smoothly_filled
from training.imaging.read import Decoded, Limits, PictureError, opened, upright_rgb
from training.imaging.video import write_film
from training.types import Image

__all__ = ["PictureError", "opened", "upright_rgb"]

OF_UPLOADS = Limits(seconds=10.0, memory=300_000_000)
"""Limits for uploads: 30 MB and 60 megapixels, as phones have up to 50."""
OF_FILES = Limits(max_bytes=100_000_000, max_pixels=150_000_000, seconds=60.0, memory=1_000_000_000)
"""Limits for photos on the user's own disk."""
MOST_MIRRORED = 2048
"""Largest side in pixels of a square that is padded by mirroring; for larger ones the picture is reduced."""
FILMS = (".mp4", ".webp", ".gif")
SHEETS = (".png", ".jpg", ".jpeg", ".webp")
"""File endings of films, and of sheets of pictures; a .webp can be either."""
TIGHT = 1.05
"""Smallest side of a crop around an object, over the longer side of its box; what it needs beyond the picture is
mirrored, which shows in what a generator learns."""
FILLED_CELLS = 64
"""Cells a side of the colours that take the place of a mirrored object."""

Box = tuple[float, float, float, float]
"""x0 y0 x1 y1 as fractions of the picture's width and height, y down."""
PixelBox = tuple[float, float, float, float]
"""x0 y0 x1 y1 in pixels of a photo, y down, pixel edges: the whole photo is (0, 0, width, height)."""


@runtime_checkable
class Readable(Protocol):
    """An open binary file, or an object with the same `read`."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`."""
        ...


def to_uint8(image: Image) -> UInt8[Tensor, "n h w 3"]:
    """Return pictures as bytes, on the CPU, channels last: -1 becomes 0 and 1 becomes 255, with clamping."""
    return ((image.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()


def to_pil(image: Image) -> list[PIL.Image.Image]:
    """Return pictures as Pillow images, RGB."""
    return [PIL.Image.fromarray(picture) for picture in to_uint8(image).contiguous().numpy()]


def from_pil(picture: PIL.Image.Image, size: int | None = None) -> Image:
    """Return a picture as a batch of one; with `size`, its centre square, resized with antialiasing."""
    picture = picture.convert("RGB")
    if size is not None:
        picture = square_crop(picture, None).resize((size, size), PIL.Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture))
    return (pixels.permute(2, 0, 1)[None].float() / 127.5 - 1).contiguous()


def open_picture(
    source: Path | bytes | Readable,
    *,
    name: str = "",
    max_bytes: int | None = None,
    max_pixels: int | None = None,
    keep_pixels: int = 16_000_000,
) -> PIL.Image.Image:
    """Return the picture of `decode_picture`."""
    return decode_picture(
        source, name=name, max_bytes=max_bytes, max_pixels=max_pixels, keep_pixels=keep_pixels
    ).picture


def decode_picture(
    source: Path | bytes | Readable,
    *,
    name: str = "",
    max_bytes: int | None = None,
    max_pixels: int | None = None,
    keep_pixels: int = 16_000_000,
) -> Decoded:
    """Return a picture as sRGB, upright, over white where transparent; the first frame of an animation.

    It is decoded in a subprocess with limits on time and memory.

    Args:
        source: a file, its bytes, or an open binary file.
        name: its name in messages; by default the file's name without its folder.
        max_bytes: larger files are refused; by default 100 MB for files on disk and 30 MB for others.
        max_pixels: larger pictures are refused; by default 150 and 60 megapixels.
        keep_pixels: larger pictures are reduced.

    Raises: PictureError for files that are too large, truncated, or not pictures.
    """
    limits = OF_FILES if isinstance(source, Path) else OF_UPLOADS
    limits = replace(
        limits,
        max_bytes=limits.max_bytes if max_bytes is None else max_bytes,
        max_pixels=limits.max_pixels if max_pixels is None else max_pixels,
        keep_pixels=keep_pixels,
    )
    if isinstance(source, Path):
        name = name or source.name
    elif not isinstance(source, bytes):
        source = source.read(limits.max_bytes + 1)
    return DECODERS.photo(source, name or "this picture", limits)


def square_region(width: int, height: int, box: Box | None, *, margin: float = 1.5) -> tuple[int, int, int]:
    """Return left, top and side, in pixels, of the square of `square_crop`; it may extend beyond the picture."""
    if box is None:
        side = min(width, height)
        return (width - side) // 2, (height - side) // 2, side
    x0, y0, x1, y1 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"box {box} is empty; expected x0 < x1 and y0 < y1 as fractions of the picture")
    longer = max(x1 - x0, y1 - y0)
    # a mirrored border would repeat parts of the object, so a smaller margin is preferred
    side = max(1, round(min(margin * longer, max(min(width, height), TIGHT * longer))))
    return _inside(x0, x1, side, width), _inside(y0, y1, side, height), side


def extends_beyond(region: tuple[int, int, int], size: tuple[int, int]) -> bool:
    """Return whether a square (left, top, side) extends beyond a picture of `size` (width, height)."""
    left, top, side = region
    return left < 0 or top < 0 or left + side > size[0] or top + side > size[1]


def _inside(low: float, high: float, side: int, size: int) -> int:
    """Return the start of an interval of length `side` centred on [low, high], moved into [0, size] if it fits."""
    if side >= size:
        return (size - side) // 2
    return min(max(round((low + high - side) / 2), 0), size - side)


def square_crop(
    picture: PIL.Image.Image, box: Box | None, *, margin: float = 1.5, mask: Bool[np.ndarray, "h w"] | None = None
) -> PIL.Image.Image:
    """Return the square of side `margin * max(w, h)` around `box`; without a box, the largest in the middle.

    Near a border the square is moved inwards, and in a small picture it is reduced to `TIGHT` times the box; if it
    still extends beyond the picture, that is mirrored. Where the mirrored part would show the object again, as its
    `mask` of the whole picture tells, the colours around take its place. Raises: ValueError if the box is empty.
    """
    left, top, side = region = square_region(*picture.size, box, margin=margin)
    width, height = picture.size
    if not extends_beyond(region, picture.size):
        return picture.crop((left, top, left + side, top + side))
    if side > MOST_MIRRORED:
        mask = mask if mask is None else np.asarray(_reduced(PIL.Image.fromarray(mask).convert("L"), side)) > 127
        return square_crop(_reduced(picture, side), box, margin=margin, mask=mask)
    rows, columns = _mirrored(top, side, height), _mirrored(left, side, width)
    square = np.ascontiguousarray(np.asarray(picture)[rows][:, columns])
    if mask is not None:
        beyond = np.ones((side, side), dtype=bool)
        beyond[max(0, -top) : height - top, max(0, -left) : width - left] = False
        square = _without_object(square, mask[rows][:, columns], beyond)
    return PIL.Image.fromarray(square)


def square_mask(mask: PIL.Image.Image, box: Box | None, *, margin: float = 1.5) -> PIL.Image.Image:
    """Return the same square of an object's mask (mode L); it is 0 beyond the picture."""
    left, top, side = region = square_region(*mask.size, box, margin=margin)
    if side > MOST_MIRRORED and extends_beyond(region, mask.size):
        return square_mask(_reduced(mask, side), box, margin=margin)
    return mask.crop((left, top, left + side, top + side))


def _reduced(picture: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """Return a picture in which a square of `side` is smaller than the largest that is mirrored: a thin strip has a
    huge square."""
    width, height = (max(1, round(0.9 * MOST_MIRRORED / side * edge)) for edge in picture.size)
    return picture.resize((width, height), PIL.Image.Resampling.LANCZOS)


def _without_object(
    square: UInt8[np.ndarray, "h w *c"], mask: Bool[np.ndarray, "h w"], where: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w *c"]:
    """Return a picture whose object, there where `where` is true, has given way to the colours around it."""
    reach = max(1, round(0.02 * len(mask)))  # masks may be too small
    near = np.asarray(scipy.ndimage.binary_dilation(mask, iterations=reach), dtype=bool)
    if not (near & where).any() or near.all():
        return square
    pixels = torch.from_numpy(square).view(1, *mask.shape, -1).permute(0, 3, 1, 2).float()
    cells = smoothly_filled(pixels, torch.from_numpy(~near).float()[None, None], FILLED_CELLS)
    around = F.interpolate(cells, size=mask.shape, mode="bilinear", align_corners=False)[0]
    kept = ~(near & where).reshape(*mask.shape, *[1] * (square.ndim - 2))
    filled = around.permute(1, 2, 0).round().clamp(0, 255).byte().numpy().reshape(square.shape)
    return np.where(kept, square, filled)


def _mirrored(start: int, length: int, size: int) -> Int[np.ndarray, " length"]:
    """Return indices start ... start + length - 1 into a line of `size`, reflected at both ends periodically."""
    index = np.arange(start, start + length) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def tile(image: Image, columns: int, *, gap: int = 2) -> PIL.Image.Image:
    """Return pictures as a grid, `columns` a row, on white, `gap` pixels apart."""
    return tile_pictures(to_pil(image), len(image), columns, gap=gap)


def tile_pictures(pictures: Iterable[PIL.Image.Image], n: int, columns: int, *, gap: int = 2) -> PIL.Image.Image:
    """Return `n` pictures of one size, from an iterable, as a grid like that of `tile`."""
    left = iter(pictures)
    first = next(left)
    width, height = first.size
    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    sheet = PIL.Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, picture in enumerate(chain([first], left)):
        sheet.paste(picture, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet


def side_by_side(frames: Float[Tensor, "frames cells 3 height width"], columns: int) -> Image:
    """Return the frames of a film that shows a grid of pictures, `columns` a row, on white."""
    n, cells = frames.shape[:2]
    empty = frames.new_ones(n, -cells % columns, *frames.shape[2:])
    grid = torch.cat([frames, empty], 1).unflatten(1, (-1, columns))  # (frames, rows, columns, 3, h, w)
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def write_sheet(path: Path, image: Image, columns: int) -> None:
    """Write pictures as one sheet. Raises: ValueError for an ending that is not in `SHEETS`."""
    if path.suffix.lower() not in SHEETS:
        raise ValueError(f"cannot write {path.name}: expected a name that ends in {', '.join(SHEETS)}")
    sheet = tile(image, columns)
    with whole_file(path) as temporary:
        sheet.save(temporary)


def is_film(path: Path, *, fps: float, still: bool = False) -> bool:
    """Return whether the file `path` is to be a film and not a sheet, by its ending.

    Raises: ValueError for an ending of neither, or an invalid frame rate.
    """
    kind = path.suffix.lower()
    film = kind in FILMS and not still
    if not film and kind not in SHEETS:
        wanted = SHEETS if still else (*FILMS, *SHEETS)
        raise ValueError(f"cannot write {path.name}: expected a name that ends in {', '.join(dict.fromkeys(wanted))}")
    if film and not 0 < fps <= 1000:
        raise ValueError(f"cannot write {path.name} with {fps:g} pictures a second; expected above 0, at most 1000")
    return film


def write_animation(path: Path, frames: Image, *, fps: float) -> None:
    """Write pictures as a film in the format of the ending: .mp4 (H.264), .webp or .gif, the last two looping.

    Raises: ValueError for another ending, no frames or an invalid frame rate.
    """
    kind = path.suffix.lower()
    if kind not in FILMS or not is_film(path, fps=fps):
        raise ValueError(f"cannot write {path.name}: expected a name that ends in .mp4, .webp or .gif")
    if len(frames) == 0:
        raise ValueError(f"cannot write {path.name}: no frames; give at least one picture")
    pictures = (to_uint8(frames[i : i + 1])[0].numpy() for i in range(len(frames)))
    with whole_file(path) as temporary:
        write_film(temporary, pictures, len(frames), fps=fps)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with its ending; it is renamed to `path` on success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes it private; a result has the usual permissions
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
