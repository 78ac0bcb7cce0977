"""The report as one self-contained HTML file: figures, plots, pictures, and how they were measured."""

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
from torch import Tensor

from training.checkpoint import write_whole
from training.metrics.figures import kind_of
from training.metrics.inversion import InversionReport
from training.metrics.knobs import KnobReport
from training.metrics.report_plots import DPI, bars, heat_map, knob_curves
from training.metrics.swaps import SwapReport, Table
from training.pictures import tile

if TYPE_CHECKING:
    from training.metrics.report import Report

STYLE = """
:root { --ink: #1f2430; --faint: #6b7183; --line: #e3e6ee; --wash: #f6f7fb; --accent: #2f6fde; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.75rem 0 .35rem; }
p { margin: .4rem 0 .9rem; max-width: 44rem; }
.faint, figcaption, small { color: var(--faint); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0; }
.tile { background: var(--wash); border-radius: .6rem; padding: .9rem 1rem; }
.tile b { display: block; font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: .85rem; color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .75rem 0; }
th, td { padding: .35rem .8rem .35rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; color: var(--faint); }
figure { margin: 1rem 0; overflow-x: auto; }
figure img { max-width: 100%; height: auto; display: block; }
figure img.pixels { image-rendering: pixelated; width: 100%; max-width: 40rem; border-radius: .3rem; }
figure img.plot { max-width: max(100%, 36rem); }
figcaption { font-size: .85rem; margin-top: .35rem; max-width: 44rem; }
"""

TILES = (
    "rotation_within_15", "rotation_flips", "turns_closed", "elevation_slope", "scale_slope", "x_slope",
    "look_mask_iou", "look_background_changed", "swap_diagonal", "swap_leakage", "true_factors_diagonal",
    "mix_rotation_error", "given_mask_iou_code",
)  # fmt: skip
"""Figures shown at the top of the page, in this order."""
CODES = {
    "values": "values", "perplexity_of_choices": "in use (perplexity)", "pictures": "photos",
    "accuracy": "accuracy by labels", "accuracy_by_chance": "by chance", "nmi": "NMI", "nmi_by_chance": "by chance",
}  # fmt: skip
"""Columns of the table of codes."""
KINDS = {"free": "samples", "tied": "shape tied to texture", "photos": "mixes of photos"}
"""Kinds of pictures compared with real ones, and how the page names them."""


def write_page(path: Path, report: "Report", found: dict[str, float]) -> None:
    """Write the report's page."""
    parts = [*_head(report, found)]
    if report.knobs is not None:
        parts += _knobs(report.knobs)
    if report.swaps is not None:
        parts += _swaps(report.swaps, "cub" in report.data.lower())
    if report.inversion is not None:
        parts += _inversion(report.inversion)
    parts += _distances(report)
    parts += _how(report)
    title = escape(report.name)
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}: do the knobs do what they say?</title>\n<style>{STYLE}</style>\n<main>\n"
    )
    write_whole(path, (page + "\n".join(parts) + "\n</main>\n</html>\n").encode())


def _head(report: "Report", found: dict[str, float]) -> Iterator[str]:
    yield f"<h1>{escape(report.name)}</h1>"
    seen = f", {report.images_seen:,} pictures seen in training" if report.images_seen else ""
    yield f'<p class="faint">{escape(report.family)}{seen}. Do its knobs do what their labels say?</p>'
    yield f"<p>{escape(' '.join(summary(report)))}</p>"
    yield '<div class="tiles">'
    for name in TILES:
        if name in found:
            kind = kind_of(name)
            yield f'<div class="tile"><b>{_number(found[name], kind.unit)}</b><span>{escape(kind.words)}</span></div>'
    yield "</div>"


def summary(report: "Report") -> list[str]:
    """Return the report in a few sentences."""
    sentences = []
    knobs, swaps = report.knobs, report.swaps
    if knobs is not None:
        fits = {f.knob: f.fit for f in knobs.following}
        if (turn := fits.get("rotation")) and turn.flips is not None:
            sentences.append(
                f"Turn the rotation knob and the object follows to within {turn.error:.0f}° in the median; "
                f"{100 * turn.flips:.0f} in 100 face the wrong way round."
            )
        lines = sorted((f for f in knobs.following if f.fit.flips is None), key=lambda f: abs(f.fit.slope - 1))
        if lines:
            good, poor = lines[0], lines[-1]
            sentences.append(
                f"Of the other knobs, the most accurate is {good.label} (slope {good.fit.slope:.2f}, 1 is ideal)"
            )
            sentences[-1] += f", the least accurate {poor.label} ({poor.fit.slope:.2f})." if poor is not good else "."
        moved = [s for s in knobs.staying if s.background_1 is not None]
        if moved:
            worst = max(moved, key=lambda s: s.background_1 or 0)
            sentences.append(
                f"No knob of the object touches more than {100 * (worst.background_1 or 0):.1f} % of the background "
                f"({worst.label}, counted from one level of 255)."
            )
    if report.turns is not None and (seen := report.turns.seen) is not None:
        said = f"Turned by up to 60°, objects turn {abs(seen.slope):.2f} times as far (R² {seen.r2:.2f})"
        sentences.append(f"{said}, read by a network that learned from films.")
    if swaps is not None:
        table = swaps.swaps
        sentences.append(
            f"Exchange one factor of a photo and {100 * table.diagonal:.0f} % of what should change changes, as does "
            f"{100 * table.leakage:.0f} % of what should stay."
        )
        leaks = [
            (v, r, c)
            for i, r in enumerate(table.rows)
            for j, (c, v) in enumerate(zip(table.columns, table.entries[i], strict=True))
            if i != j
        ]
        value, row, column = max(leaks)
        sentences.append(f"The largest leak is from {row} into {column} ({100 * value:.0f} %).")
    return sentences


def _knobs(knobs: KnobReport) -> Iterator[str]:
    yield "<h2>Does the picture follow the knob?</h2>"
    yield (
        f"<p>All knobs are turned at random at once, in {knobs.n} pictures; each is then read off the picture by "
        f"{escape(knobs.reader)} and compared with where the knob stood. Dots on the line are pictures that do as the "
        f"knob says; dots on the dotted lines face the wrong way round.</p>"
    )
    if knobs.following:
        yield _figure(
            knob_curves(knobs.following), "The picture against the knob; the dark line is a knob that does as it says."
        )
        rows = [
            (f.label, _number(f.fit.slope, "ratio"), _number(f.fit.r2, "ratio"), _measure(f.fit.error, f.unit),
             _measure(f.fit.offset, f.unit), _number(f.fit.within_15, "share"), _number(f.fit.flips, "share"))
            for f in knobs.following
        ]  # fmt: skip
        yield _table(("knob", "slope", "R²", "median error", "offset", "within 15°", "flipped"), rows)
        yield (
            "<p><small>The offset is one number for all pictures and is taken off before errors: no label ever said "
            "where zero is.</small></p>"
        )
    if knobs.turns is not None:
        t = knobs.turns
        yield "<h3>All the way round</h3>"
        yield (
            f"<p>{t.n} objects in 24 steps of 15°: {_number(t.steps_right, 'share')} of the steps go the right way by "
            f"3° to 35°, {_number(t.once_round, 'share')} of the turns go round exactly once, "
            f"{_number(t.closed, 'share')} have no wrong step at all. Over a turn an object's colours drift by "
            f"{_number(knobs.identity_drift, 'share')} of the difference between two objects.</p>"
        )
    yield from _pictures(knobs, ("Full turns", "worst rotations"))
    yield "<h3>What each knob looks like</h3>"
    yield from _pictures(knobs, [n for n in knobs.pictures if n not in ("Full turns", "worst rotations")])
    yield from _invariance(knobs)


def _invariance(knobs: KnobReport) -> Iterator[str]:
    yield "<h2>Does everything else stay?</h2>"
    if len(knobs.readings) > 1:
        yield (
            "<p>One knob is swept over its range with all else fixed; each square is how far that moves what another "
            "knob should govern, as a share of what that knob does itself. The diagonal is 100 % by definition. "
            "Turning a long object changes its outline, so a reader of masks shows some change of place and size that "
            "is no fault.</p>"
        )
        labels = {s.knob: s.label for s in knobs.staying}
        shown = heat_map(
            [labels[k] for k in knobs.leak], [labels[k] for k in knobs.readings], list(knobs.leak.values())
        )
        yield _figure(shown, "Down: the knob that is turned. Across: what is read.")
    yield (
        "<p>Then each knob is moved to a random place and the layers before and after are compared: the background "
        "outside both masks, the object inside both, and the masks themselves.</p>"
    )
    rows = [
        (s.label, f"{s.effect:.1f}", _number(s.background_1, "share"), _number(s.background_4, "share"),
         _number(s.foreground_1, "share"), _number(s.foreground_4, "share"), _number(s.mask_iou, "ratio"),
         _number(s.look_change, "share"))
        for s in knobs.staying
    ]  # fmt: skip
    yield _table(
        ("knob", "effect, of 255", "background ≥ 1/255", "≥ 4/255", "object ≥ 1/255", "≥ 4/255", "mask IoU", "colours"),
        rows,
    )
    m = knobs.masks
    yield (
        f"<p>Masks cover {_number(m.mean, 'share')} of the picture (standard deviation {_number(m.sd, 'share')}, "
        f"{_number(m.smallest, 'share')} to {_number(m.largest, 'share')}); pixels that are neither object nor "
        f"background amount to {_number(m.soft, 'share')} of that area.</p>"
    )


def _inversion(found: InversionReport) -> Iterator[str]:
    yield "<h2>Photos as codes</h2>"
    yield f"<p>The codes found for {found.n} held-out photos, and the pictures generated from them.</p>"
    yield '<div class="wide"><table><tr><th></th><th>from the codes</th>'
    yield "".join(f"<th>{escape(name)}</th>" for name in found.baselines) + "</tr>"
    for name, value in found.figures.items():
        kind = kind_of(name)
        cells = [value, *(beside.get(name) for beside in found.baselines.values())]
        numbers = "".join(f"<td>{'' if v is None else _number(v, kind.unit)}</td>" for v in cells)
        label = name.removesuffix("_object_psnr").removesuffix("_mask_iou").replace("_", " ")
        yield f"<tr><td>{escape(label)}: {escape(kind.words)}</td>{numbers}</tr>"
    yield "</table></div>"
    for name, pictures in found.pictures.items():
        yield _figure(_sheet(pictures), found.captions[name], pixels=True)


def _swaps(swaps: SwapReport, cub: bool) -> Iterator[str]:
    yield "<h2>Does a mix take from each photo what it should?</h2>"
    yield (
        f"<p>In {swaps.n} photos one factor at a time is exchanged for another photo's. Each square is the change, as "
        f"a share of the change when all factors are exchanged: the diagonal should be 100 %, all else 0 %.</p>"
    )
    table = swaps.swaps
    yield _figure(
        heat_map(table.rows, table.columns, table.entries, down="exchanged"),
        "Down: the factor exchanged. Across: what changed.",
    )
    yield (
        f"<p>The diagonal's mean, {_number(table.diagonal, 'share')}, is <b>{table.over_leak:.1f} times</b> the "
        f"largest square beside it, {_number(max(table.off_diagonal), 'share')}.</p>"
    )
    if swaps.truths is not None:
        yield from _against_truth(swaps, swaps.truths)
    yield "<h3>In codes</h3><p>The mix is read again: how far each code went from the photo's own to the giver's.</p>"
    yield _figure(
        heat_map(swaps.recoded.rows, swaps.recoded.columns, swaps.recoded.entries, down="exchanged"),
        "Down: the factor exchanged. Across: the code read from the mix.",
    )
    yield from _pictures(swaps, list(swaps.pictures))
    yield from _reconstruction(swaps, cub)
    yield from _every(swaps.every_measure)


def _against_truth(swaps: SwapReport, truths: Table) -> Iterator[str]:
    yield (
        "<p>Rotation, model and paint are read by the evaluator of rendered cars. Where pictures are not yet cars it "
        "guesses: what it sees to change with the background alone is guesswork.</p>"
    )
    yield "<h3>Against the truth</h3>"
    yield (
        "<p>Four rendered cars give one factor each, and the renderer knows what those are. Each square is how "
        "much nearer that factor of the mix is to the giver's than to anyone's.</p>"
    )
    yield _figure(
        heat_map(truths.rows, truths.columns, truths.entries, down="given by"),
        "Down: the giver of a factor. Across: the factor of the mix.",
    )
    if (turn := swaps.rotation) and turn.flips is not None:
        yield (
            f"<p>The rotation of mixes is off by {turn.error:.0f}° in the median "
            f"({_number(turn.within_15, 'share')} within 15°); {_number(turn.flips, 'share')} face the wrong way "
            "round.</p>"
        )


def _reconstruction(swaps: SwapReport, cub: bool) -> Iterator[str]:
    yield "<h3>Reconstruction, masks, codes</h3>"
    modes = sorted(set(swaps.mask_iou) | {m for m in swaps.reconstruction if not m.endswith("_lpips")})
    rows = [
        (mode, _number(swaps.mask_iou.get(mode), "ratio"), _number(swaps.reconstruction.get(mode), "plain"),
         _number(swaps.reconstruction.get(f"{mode}_lpips"), "ratio"))
        for mode in modes
    ]  # fmt: skip
    yield _table(("mode", "IoU with given masks", "mean error, of 255", "LPIPS"), rows)
    yield _table(("code", *CODES.values()), [
        (name, *(_number(used.get(key), "share" if key.startswith("accuracy") else "plain") for key in CODES))
        for name, used in swaps.codes_used.items()
    ])  # fmt: skip
    if cub:
        yield (
            "<p>Accuracy and NMI of c on 11,788 photos of CUB-200-2011, by C3-GAN's authors: FineGAN 6.9 %, 0.37, "
            "MixNMatch 10.2 %, 0.41, C3-GAN 27.6 %, 0.53. Mask IoU: FineGAN 0.445, OneGAN 0.555, LayeredGAN 0.697.</p>"
        )


def _every(table: Table) -> Iterator[str]:
    rows = [(row, *(_number(v, "share") for v in line)) for row, line in zip(table.rows, table.entries, strict=True)]
    rows.append(("all exchanged =", *(f"{unit:.3g}" for unit in table.units)))
    yield "<h3>Every measure</h3>"
    yield _table(("exchanged", *table.columns), rows)


def _distances(report: "Report") -> Iterator[str]:
    kinds = report.swaps.distances if report.swaps is not None else {}
    if report.distances or kinds:
        yield "<h2>How close to real pictures?</h2>"
        real = f"“{escape(report.compared)}” of {escape(report.data)}"
        yield f"<p>{report.n_distance:,} pictures on either side; the real ones: {real}.</p>"
        for name in [n for n in report.distances if not n.startswith("real")]:
            values = {KINDS.get(kind, kind): both[name] for kind, both in kinds.items() if name in both} or {
                "samples": report.distances[name]
            }
            floor = report.distances.get(f"real against real {name}")
            yield _figure(bars(values, unit=name, floor=floor), f"{name}: lower is closer.")
    if report.mutual or report.diversity:
        yield "<h2>Scores by others' definitions</h2>"
    for name, value in report.mutual.items():
        yield (
            f"<p>Mutual background score ({escape(name)}): {_number(value, 'share')} of the common background changes "
            f"by 1/255 or more when the object is redrawn; 0 is perfect.</p>"
        )
    if report.diversity:
        yield _figure(bars(report.diversity, unit="LPIPS"), "LPIPS distance of pictures that differ in one code only.")


def _how(report: "Report") -> Iterator[str]:
    yield "<h2>How this was measured</h2>"
    yield (
        f"<p>Seed {report.seed}, n = {report.n}; real pictures: {escape(report.data)} ({escape(report.split)}). "
        f"Checkpoint sha256 {escape(report.sha256[:16])}…</p>"
    )
    if j := report.evaluator_errors:
        yield (
            f"<p>A network that learned from the renderer's labels reads rendered cars. On {j['n']:,.0f} held-out "
            f"renders it is off by {j['rotation_median_error']:.1f}° in rotation "
            f"({_number(j['rotation_flips'], 'share')} flipped) and {j['elevation_median_error']:.1f}° in elevation, "
            f"in the median; its slopes are {j['elevation_slope']:.2f} (elevation), {j['scale_slope']:.2f} (size), "
            f"{j['x_slope']:.2f} and {j['y_slope']:.2f} (place). What is read of a generator's pictures cannot be "
            "better than that.</p>"
        )
    yield f'<p class="faint">{escape(", ".join(f"{k} {v}" for k, v in report.versions.items()))}.</p>'
    if report.seconds:
        spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.seconds.items())
        yield f'<p class="faint">{escape(spent)}.</p>'
    if report.notes:
        yield "<h3>Not measured</h3><ul>" + "".join(f"<li>{escape(note)}</li>" for note in report.notes) + "</ul>"


def _number(value: float | None, kind: str) -> str:
    """Return a figure as people write it; a dash for none."""
    if value is None:
        return "–"
    if kind == "share":
        if 0 < value < 0.0001:
            return "<\u00a00.01\u00a0%"
        return f"{100 * value:.2f}\u00a0%" if 0 < value < 0.01 else f"{100 * value:.0f}\u00a0%"
    return f"{value:.0f}°" if kind == "degrees" else f"{value:.1f}" if kind == "plain" else f"{value:.2f}"


def _measure(value: float, unit: str) -> str:
    """Return a figure with its unit: a real minus, and degrees close to their number."""
    gap = "" if unit == "°" else "\u00a0"
    return f"{value:.3g}{gap}{unit}".replace("-", "−")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(png: bytes, caption: str, *, pixels: bool = False) -> str:
    source = base64.b64encode(png).decode()
    with PIL.Image.open(io.BytesIO(png)) as picture:
        width = picture.width * 72 // DPI  # plots are drawn finer than a screen's points
    kind = ' class="pixels"' if pixels else f' class="plot" width="{width}"'
    return (
        f'<figure><img{kind} src="data:image/png;base64,{source}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _pictures(part: KnobReport | SwapReport, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name in part.pictures:
            yield _figure(_sheet(part.pictures[name]), part.captions.get(name, name), pixels=True)


def _sheet(pictures: Tensor) -> bytes:
    """Return pictures, eight a row, as one PNG; small ones enlarged so that a screen shows whole pixels."""
    sheet = tile(pictures, 8)
    if pictures.shape[3] <= 64:
        sheet = sheet.resize((sheet.width * 2, sheet.height * 2), PIL.Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()
