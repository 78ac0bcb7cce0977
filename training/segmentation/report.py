"""The report of `segment evaluate`: one self-contained HTML file with the worst cases."""

import base64
import io
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import scipy.ndimage

from ..checkpoint import write_whole
from ..data.coco import CocoSet
from ..metrics.coco_map import CocoScores, Precision
from .contract import Instance, Pixels
from .evaluate import Measured
from .film import colour_of

SIDE = 240
"""Longer side of the pictures shown."""
STYLE = """
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: #1f2430; }
main { max-width: 64rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
.faint, figcaption { color: #6b7183; font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem .35rem 0; text-align: right; border-bottom: 1px solid #e3e6ee; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figure img { max-width: 100%; border-radius: .3rem; display: block; }
"""


def write_report(path: Path, truth: CocoSet, measured: Mapping[str, Measured], arguments: Mapping[str, str]) -> None:
    """Write the report of one or more segmenters, with the worst pictures of the first one."""
    first = next(iter(measured))
    title = f"Objects found in {arguments.get('data', truth.path.parent.name)}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="faint">{measured[first].scores.pictures} pictures, {measured[first].scores.objects} objects, split '
        f"{escape(arguments.get('split', ''))}. AP as COCO defines it: mean over IoU thresholds .50 to .95.</p>",
        *_scores(measured),
        *_classes(measured[first].scores, first),
        *_worst(truth, measured[first], first),
        f'<h2>How it was measured</h2><p class="faint">{escape(str(dict(arguments)))}</p>',
    ]
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n<main>\n"
    )
    write_whole(path, (page + "\n".join(parts) + "\n</main>\n</html>\n").encode())


def _scores(measured: Mapping[str, Measured]) -> Iterator[str]:
    yield "<h2>Scores</h2>"
    names = ("AP", "AP50", "AP75", "small", "medium", "large")
    heads = [f"{kind} {name}" for kind in ("mask", "box") for name in names]
    more = ["best mask IoU", "over .8", "boxes right (IoU over .6)", "ms a picture"]
    rows = []
    for name, found in measured.items():
        summary = found.summary()
        cells = [*_precision(found.scores.mask), *_precision(found.scores.box)]
        cells += [_share(summary[key]) for key in ("best_mask_iou", "best_mask_iou_over_80", "box_iou_over_60")]
        rows.append([escape(name), *cells, f"{found.milliseconds:.1f}"])
    yield _table(["", *heads, *more], rows)


def _precision(found: Precision) -> list[str]:
    """Return six cells; AP and AP50 with their interval where there is one."""
    cells = [_share(v) for v in (found.ap, found.ap50, found.ap75, found.small, found.medium, found.large)]
    for k, interval in enumerate((found.interval, found.interval50)):
        if interval is not None:
            cells[k] += f" <small>({interval[0]:.3f} to {interval[1]:.3f})</small>"
    return cells


def _classes(scores: CocoScores, name: str) -> Iterator[str]:
    yield f"<h2>By class, {escape(name)}</h2>"
    rows = [
        [escape(label), str(row["objects"]), *(_share(row[key]) for key in ("mask_ap", "mask_ap50", "box_ap"))]
        for label, row in sorted(scores.classes.items(), key=lambda pair: -(pair[1]["mask_ap"] or 0))
    ]
    yield _table(["", "objects", "mask AP", "mask AP50", "box AP"], rows)


def _worst(truth: CocoSet, measured: Measured, name: str) -> Iterator[str]:
    yield f"<h2>Worst pictures, {escape(name)}</h2>"
    yield '<p class="faint">White and black outline: the true objects. Tint: what was found.</p><div class="grid">'
    fits = {fit.picture: fit for fit in measured.scores.fits}
    for i in measured.worst:
        picture = truth.load(i)
        shown = show(picture.image, list(picture.masks), measured.found.get(i, []))
        labels = ", ".join(truth.categories[int(label)] for label in picture.labels) or "nothing"
        found = ", ".join(f"{x.label} {x.score:.2f}" for x in measured.found.get(i, [])) or "nothing"
        words = (
            f"{escape(truth.pictures[i].name)}: IoU {fits[i].iou:.2f}. True: {escape(labels)}. Found: {escape(found)}."
        )
        yield f'<figure><img src="{_inline(shown)}" alt=""><figcaption>{words}</figcaption></figure>'
    yield "</div>"


def show(image: Pixels, true: list[np.ndarray], found: list[Instance]) -> PIL.Image.Image:
    """Return a picture with found masks tinted and true masks outlined."""
    scale = SIDE / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    pixels = np.array(PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BICUBIC)).astype(np.float32)
    for k, instance in enumerate(found):
        mask = np.asarray(PIL.Image.fromarray(instance.mask).resize(size, PIL.Image.Resampling.BILINEAR))
        pixels += 0.5 * mask[..., None] * (np.array(colour_of(k + 1), np.float32) - pixels)
    for mask in true:
        small = np.asarray(PIL.Image.fromarray(mask.astype(np.float32)).resize(size)) > 0.5
        outer = np.asarray(scipy.ndimage.binary_dilation(small), bool)
        inner = np.asarray(scipy.ndimage.binary_erosion(small), bool)
        pixels[outer & ~small], pixels[small & ~inner] = 0, 255
    return PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _inline(picture: PIL.Image.Image) -> str:
    """Return a picture as a data URL."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def _share(value: Any) -> str:
    return "none" if value is None else f"{value:.3f}"
