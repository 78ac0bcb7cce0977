"""Files that people and others send: what is no picture, and pictures that are odd."""

import io
import struct
import zlib

import numpy as np
import PIL.Image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_zeros(width: int, height: int) -> bytes:
    """Return a small file that unpacks to a huge black picture."""
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + width)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """Return a PNG whose compressed text unpacks to 100 MB."""
    small = as_file(PIL.Image.new("RGB", (8, 8)))
    text = chunk(b"zTXt", b"recipe\0\0" + zlib.compress(b" " * 100_000_000, 9))
    return small[:33] + text + small[33:]


def as_file(picture: PIL.Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def gradient(width: int = 96, height: int = 64, mode: str = "RGB") -> PIL.Image.Image:
    """Return a picture that is red at the left and blue at the right."""
    x = np.linspace(0, 255, width, dtype=np.uint8)[None].repeat(height, 0)
    return PIL.Image.fromarray(np.stack([255 - x, np.zeros_like(x), x], -1)).convert(mode)


def turned_by_exif() -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return as_file(gradient(), "JPEG", exif=exif, quality=95)


def moving(kind: str) -> bytes:
    frames = [PIL.Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "green")]
    return as_file(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def sixteen_bits() -> bytes:
    return as_file(PIL.Image.fromarray(np.full((64, 64), 20_000, np.uint16)))


def as_large_as_allowed() -> bytes:
    """Return a picture of 16 megapixels with transparency, which takes the most memory that an upload may."""
    return as_file(gradient(4000, 4000).convert("RGBA"), compress_level=1)


def phone_photo(width: int, height: int) -> bytes:
    """Return a JPEG file of many megapixels, made in a moment."""
    large = gradient(256, 192).resize((width, height), PIL.Image.Resampling.NEAREST)
    return as_file(large, "JPEG", quality=50, subsampling=2)


def half_transparent() -> bytes:
    picture = PIL.Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    return as_file(picture)


def many_scans(n: int) -> bytes:
    """Return a small progressive JPEG whose last scan comes `n` times: decoding takes as long as `n` pictures."""
    whole = as_file(gradient(), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * n + whole[-2:]


def with_profile(picture: PIL.Image.Image, profile: bytes, kind: str = "PNG") -> bytes:
    return as_file(picture, kind, icc_profile=profile)


BAD: dict[str, bytes] = {
    "text as PNG": b"hello, I am no picture",
    "empty": b"",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "SVG as PNG": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    "HTML": b"<html><script>alert(1)</script>",
    "PDF": b"%PDF-1.7\n%",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) run\n",
    "20000 x 20000": png_of_zeros(20_000, 20_000),
    "12000 x 12000": png_of_zeros(12_000, 12_000),
    "1 x 15.9 million": png_of_zeros(1, 15_900_000),
    "20,000 scans": many_scans(20_000),
    "truncated JPEG": as_file(gradient(640, 480), "JPEG")[:2000],
    "truncated PNG": as_file(gradient(640, 480))[:300],
    "damaged PNG": as_file(gradient()).replace(b"IDAT", b"IDAX"),
    "zip": b"PK\x03\x04" + zlib.compress(b"\0" * 5_000_000),
    "text bomb": text_bomb(),
    "30.5 MB": b"\xff\xd8" + b"\0" * 30_500_000,
}
"""What cannot be used: one sentence each."""
GOOD: dict[str, bytes] = {
    "CMYK": as_file(gradient(mode="CMYK"), "JPEG"),
    "16 bits": sixteen_bits(),
    "animated GIF": moving("GIF"),
    "animated WebP": moving("WEBP"),
    "1 x 1": as_file(PIL.Image.new("RGB", (1, 1), "red")),
    "transparent": half_transparent(),
    "palette": as_file(gradient(mode="P")),
    "one bit": as_file(gradient(mode="1")),
    "EXIF": turned_by_exif(),
    "long and thin": as_file(PIL.Image.new("RGB", (6000, 4), "red")),
    "16 megapixels": as_large_as_allowed(),
    "24 megapixels": phone_photo(5712, 4284),
    "50 megapixels": phone_photo(8192, 6144),
    "damaged profile": with_profile(gradient(), b"no profile"),
}
"""What becomes a picture all the same."""


def check(name: str, view: PIL.Image.Image) -> None:
    """Assert that `view` is what GOOD[name] shows."""
    pixels = np.asarray(view).astype(int)
    third = max(1, pixels.shape[1] // 3)
    left, right = pixels[:, :third].mean((0, 1)), pixels[:, -third:].mean((0, 1))
    if name in ("CMYK", "palette", "16 megapixels", "24 megapixels", "50 megapixels", "damaged profile"):
        assert left[0] > left[2] and right[2] > right[0]
    if name == "EXIF":  # turned clockwise: what was left is now up
        assert view.size == (64, 96)
        assert pixels[:20].mean((0, 1))[0] > 180 > pixels[-20:].mean((0, 1))[0]
    if name == "16 bits":
        assert abs(pixels.mean() - 20_000 / 257) < 3
    if name == "transparent":
        assert pixels.min() > 250
    if name.startswith("animated"):
        assert pixels[..., 0].mean() > 200 > 60 > pixels[..., 2].mean()
    if name in ("1 x 1", "long and thin"):
        assert left[0] > 240 and left[1:].max() < 15
    if name == "one bit":
        assert pixels.min() == 0 and pixels.max() == 255
