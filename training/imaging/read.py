"""Decodes one picture file to sRGB, upright, over white, no larger than asked for.

It imports no torch, so that subprocesses start fast. Files are untrusted: their size is checked before they are
decoded, and `decoders` runs this in a subprocess with limits on time and memory.
"""

import io
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "HEIF")
"""Formats that are read; none of them starts another program, as EPS would. HEIF needs the package pillow-heif."""
MAX_SIDE = 30_000
"""Pictures with a longer side are refused: thin strips cost more than their number of pixels suggests."""
STRIP = 1 << 20
"""Pixels converted at a time."""
BYTES_A_PIXEL = {"WEBP": 16, "AVIF": 18, "HEIF": 9, "TIFF": 9, "PPM": 8}
"""Approximate memory for decoding, in bytes a pixel; JPEG and PNG need only what Pillow stores. HEIC of 12 and 24
megapixels was measured at 7.7 and 7.1."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
T = TypeVar("T")
ORIENTATION = 0x0112
TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""Transposition that makes a picture upright, by its EXIF orientation."""


class PictureError(ValueError):
    """A picture that cannot be used; the message is one sentence for its user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on decoding a picture."""

    max_bytes: int = 30_000_000
    """Larger files, in bytes, are refused without reading them."""
    max_pixels: int = 60_000_000
    """Pictures with more pixels are refused without decoding them."""
    keep_pixels: int = 16_000_000
    """Pictures with more pixels are reduced."""
    keep_short: int = 0
    """Pictures whose shorter side is at least twice this are reduced, to no less than this; 0 reduces none."""
    max_scans: int = 100
    """JPEG files with more scans are refused: usual files have about ten, and each costs as much as a picture."""
    seconds: float = 20.0
    """Time limit of decoding."""
    memory: int = 400_000_000
    """Bytes for all pictures that are decoded at the same time."""

    def in_words(self) -> str:
        """Return the limits as text for messages."""
        return f"the limit is {self.max_bytes // 1_000_000} MB and {self.max_pixels // 1_000_000} megapixels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A decoded picture."""

    picture: PIL.Image.Image
    """RGB or L, upright, possibly reduced."""
    size: tuple[int, int]
    """Width and height of the upright picture in the file."""
    orientation: int = 1
    """EXIF orientation; 1 is upright."""


def opened(source: object) -> PIL.Image.Image:
    """Return a picture, opened only if its content is one of `FORMATS`: for EPS Pillow would start another program."""
    PIL.Image.init()
    return PIL.Image.open(source, formats=[f for f in FORMATS if f in PIL.Image.OPEN])  # type: ignore[arg-type]


def decode(data: bytes, name: str, limits: Limits, allowed: Callable[[int], None] = lambda need: None) -> Decoded:
    """Return the picture in a file's bytes; its first frame if it moves.

    `allowed` is called with the approximate memory for decoding, in bytes, before it begins. Raises: PictureError for
    files that are too large, truncated, or not pictures.
    """
    return guarded(data, name, limits, lambda: _decode(data, name, limits, allowed))


def frames(
    data: bytes, name: str, limits: Limits, allowed: Callable[[int], None]
) -> Iterator[tuple[PIL.Image.Image, float]]:
    """Yield the frames of an animated picture, upright, RGB, and each one's duration in milliseconds.

    Raises: PictureError.
    """
    picture = guarded(data, name, limits, lambda: header(data, name, limits))
    allowed(len(data) + 24 * picture.width * picture.height)
    for place in range(getattr(picture, "n_frames", 1)):

        def read(place: int = place) -> tuple[PIL.Image.Image, float]:
            picture.seek(place)
            picture.load()  # a WebP has its duration only then
            return upright_rgb(picture.copy()), float(picture.info.get("duration", 0) or 0)

        yield guarded(data, name, limits, read)


def guarded(data: bytes, name: str, limits: Limits, read: Callable[[], T]) -> T:
    """Run a reader; whatever it raises becomes a PictureError of one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # damaged EXIF and the like do not stop a picture
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            return read()
    except PictureError:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise PictureError(f"{name} has too many pixels; {limits.in_words()}, please choose a smaller one.") from error
    except PIL.UnidentifiedImageError as error:
        if is_heif(data) and "HEIF" not in PIL.Image.OPEN:
            raise PictureError(
                f"{name} is a HEIC photo, which needs the package pillow-heif; install it, or save the photo as JPEG."
            ) from error
        wanted = "JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF"
        raise PictureError(f"{name} is not a picture that can be read; please choose a {wanted} file.") from error
    except MemoryError as error:
        raise PictureError(f"{name} takes too much memory to decode; please choose a smaller one.") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, EOFError, struct.error, ... on damaged files
        raise PictureError(f"{name} is damaged or cut short and cannot be read; please choose another file.") from error


def is_heif(data: bytes) -> bool:
    """Whether a file's first bytes are those of HEIC, as phones write it."""
    return data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS


def header(data: bytes, name: str, limits: Limits) -> PIL.Image.Image:
    """Return a picture whose pixels are not decoded yet. Raises: PictureError if it exceeds the limits."""
    if len(data) > limits.max_bytes:
        raise PictureError(
            f"{name} is a file of more than {limits.max_bytes} bytes; {limits.in_words()}, please choose a smaller one."
        )
    if is_heif(data):
        _register_heif()
    picture = opened(io.BytesIO(data))
    width, height = picture.size
    if width * height > limits.max_pixels:
        raise PictureError(f"{name} has {width} x {height} pixels; {limits.in_words()}, please choose a smaller one.")
    if max(width, height) > MAX_SIDE:
        raise PictureError(
            f"{name} has {width} x {height} pixels; the limit is {MAX_SIDE} a side, please choose a smaller one."
        )
    if picture.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > limits.max_scans:
        raise PictureError(
            f"{name} is a JPEG file of more than {limits.max_scans} scans, which takes too long; please save it again."
        )
    return picture


def _register_heif() -> None:
    """Let Pillow read HEIC if pillow-heif is installed."""
    try:
        import pillow_heif  # type: ignore[import-not-found]
    except ImportError:
        return
    pillow_heif.options.DECODE_THREADS = 1  # each takes addresses, which are bounded
    pillow_heif.register_heif_opener()


def _decode(data: bytes, name: str, limits: Limits, allowed: Callable[[int], None]) -> Decoded:
    picture = header(data, name, limits)
    full = picture.size
    factor = _factor(full, limits)
    need = 0
    if picture.format in ("JPEG", "MPO"):
        need = 6 * full[0] * full[1] if picture.info.get("progressive") else 0  # coefficients of the whole picture
        scale = max(s for s in (1, 2, 4, 8) if s <= factor)
        picture.draft(picture.mode, (math.ceil(full[0] / scale), math.ceil(full[1] / scale)))
        factor = max(1, factor * picture.width // full[0])
    pixels = picture.width * picture.height
    need += pixels * BYTES_A_PIXEL.get(picture.format or "", _stored_bytes(picture.mode))
    allowed(need + 8 * STRIP + 8 * pixels // factor**2)
    told = orientation_of(picture)
    picture.load()
    orientation = orientation_of(picture)  # TIFF files are stood upright as they are loaded
    shrunk = _srgb(picture, factor)
    swapped = told >= 5 if picture.format != "TIFF" else False
    if orientation in TURNS:
        shrunk = shrunk.transpose(TURNS[orientation])
    return Decoded(picture=shrunk, size=(full[1], full[0]) if swapped else full, orientation=told)


def upright_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Return an upright sRGB copy of any mode of picture, over white where it is transparent."""
    picture.load()
    result, orientation = _srgb(picture, 1), orientation_of(picture)
    return result.transpose(TURNS[orientation]) if orientation in TURNS else result


def _factor(size: tuple[int, int], limits: Limits) -> int:
    """Return the integer by which a picture's sides are divided."""
    factor = max(1, math.ceil(math.sqrt(size[0] * size[1] / limits.keep_pixels)))
    if limits.keep_short:
        factor = max(factor, min(size) // limits.keep_short)
    return factor


def _stored_bytes(mode: str) -> int:
    """Return the bytes that Pillow stores for a pixel."""
    return {"1": 1, "L": 1, "P": 1}.get(mode, 2 if mode.startswith("I;16") else 4)


def orientation_of(picture: PIL.Image.Image) -> int:
    """Return a picture's EXIF orientation; 1 where it is missing or invalid."""
    try:
        value = int(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF raises what its reader met
        return 1
    return value if value in TURNS else 1


def _srgb(picture: PIL.Image.Image, factor: int) -> PIL.Image.Image:
    """Return a decoded picture in sRGB over white, its sides divided by `factor`, strip by strip to spare memory."""
    width, height = picture.size
    to_bytes, to_rgb = _sixteen_bits(picture), _profile(picture)
    clear = picture.has_transparency_data
    result = PIL.Image.new("RGB", (math.ceil(width / factor), math.ceil(height / factor)))
    rows = factor * max(1, STRIP // (width * factor))
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(height, top + rows)))
        strip = _over_white(to_bytes(strip), to_rgb, clear)
        result.paste(strip.reduce(factor) if factor > 1 else strip, (0, top // factor))
    return result


def _sixteen_bits(picture: PIL.Image.Image) -> Callable[[PIL.Image.Image], PIL.Image.Image]:
    """Return a conversion of 16-bit or float samples to 8 bits; Pillow itself would clip them."""
    mode = picture.mode
    if not (mode.startswith("I") or mode == "F"):
        return lambda strip: strip
    if mode == "F":
        high = float(np.nanmax(np.asarray(picture), initial=0))
        scale = 255.0 if high <= 1 else 1.0
    else:
        lows, highs = picture.getextrema()
        scale = 1 / 257 if highs > 255 or lows < 0 else 1.0  # type: ignore[operator]

    def convert(strip: PIL.Image.Image) -> PIL.Image.Image:
        values = np.nan_to_num(np.asarray(strip).astype(np.float32)) * scale
        return PIL.Image.fromarray(values.round().clip(0, 255).astype(np.uint8))

    return convert


def _profile(picture: PIL.Image.Image) -> PIL.ImageCms.ImageCmsTransform | None:
    """Return the transform from a picture's colour profile to sRGB; None without a usable profile."""
    data = picture.info.get("icc_profile")
    mode = picture.mode
    if not data and mode != "LAB":
        return None
    if mode.startswith("I") or mode == "F" or mode in ("1", "LA"):
        mode = "L"
    elif mode not in ("L", "CMYK", "LAB"):
        mode = "RGB"
    for taken in dict.fromkeys((mode, "RGB")):  # grey pictures may have colour profiles
        try:
            own = PIL.ImageCms.ImageCmsProfile(io.BytesIO(data) if data else PIL.ImageCms.createProfile("LAB"))
            if data and "srgb" in (PIL.ImageCms.getProfileDescription(own) or "").lower():
                return None
            return PIL.ImageCms.ImageCmsTransform(
                own,
                PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")),
                taken,
                "RGB",
                PIL.ImageCms.Intent.RELATIVE_COLORIMETRIC,
            )
        except (PIL.ImageCms.PyCMSError, OSError, TypeError, ValueError):
            continue
    return None


def _over_white(strip: PIL.Image.Image, to_rgb: PIL.ImageCms.ImageCmsTransform | None, clear: bool) -> PIL.Image.Image:
    """Return a strip in sRGB, over white where it is transparent."""
    alpha = strip.convert("RGBA").getchannel("A") if clear else None
    if to_rgb is not None:
        if strip.mode != to_rgb.input_mode:
            strip = strip.convert(to_rgb.input_mode)
        rgb = to_rgb.apply(strip)
    else:
        rgb = strip.convert("RGBA").convert("RGB") if clear else strip.convert("RGB")
    if alpha is None:
        return rgb
    rgb.putalpha(alpha)
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", rgb.size, "white"), rgb).convert("RGB")
