"""Plots of a report as PNG bytes, drawn without a display and without matplotlib's global state."""

import io
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from training.metrics.knobs import KnobFit

INK, FAINT, ACCENT, WARM = "#1f2430", "#8a90a2", "#2f6fde", "#d9480f"
DPI = 144
"""Of the plots; a page shows them at 72."""
SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#d6e4fb", "#7aa7ec", "#2f6fde", "#123a85"])


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def _plain(axes: Axes) -> None:
    """Take away what is not data."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=11)


def knob_curves(following: Sequence[KnobFit]) -> bytes:
    """Return one panel a knob: what was read against what was set, and the line of a knob that does as it says."""
    columns = min(3, len(following))
    rows = math.ceil(len(following) / columns)
    figure = Figure(figsize=(4.3 * columns, 3.7 * rows), layout="constrained")
    for i, f in enumerate(following):
        axes = figure.add_subplot(rows, columns, i + 1)
        knob, reading = zip(*f.points, strict=True)
        low, high = min(knob), max(knob)
        if f.fit.flips is not None:
            sign = math.copysign(1, f.fit.slope)
            # one offset for all is taken off; points are shown where they are nearest to the line
            reading = tuple(
                sign * k + ((r - f.fit.offset - sign * k + 180) % 360 - 180) for k, r in zip(knob, reading, strict=True)
            )
            axes.plot([low, high], [sign * low, sign * high], color=INK, linewidth=1, zorder=3)
            for shift in (-180, 180):
                axes.plot(
                    [low, high], [sign * low + shift, sign * high + shift], color=WARM, linewidth=1, linestyle=":"
                )
            axes.set_yticks(range(-180, 541, 180))
        else:
            offset = 0.0 if f.knob == "scale" else f.fit.offset
            axes.plot([low, high], [low + offset, high + offset], color=INK, linewidth=1, zorder=3)
        axes.scatter(knob, reading, s=14, color=ACCENT, alpha=0.55, linewidths=0)
        axes.set_title(f"{f.label}: slope {f.fit.slope:.2f}", fontsize=13, color=INK, loc="left")
        axes.set_xlabel(f"knob, {f.unit}" if f.unit else "knob", fontsize=11, color=INK)
        axes.set_ylabel("read from the picture", fontsize=11, color=INK)
        _plain(axes)
    return png(figure)


def heat_map(
    rows: Sequence[str], columns: Sequence[str], entries: Sequence[Sequence[float]], *, down: str = ""
) -> bytes:
    """Return a table as squares, darker for more; the figures are written in percent. `down` says what the rows are."""
    figure = Figure(figsize=(1.3 * len(columns) + 2, 0.75 * len(rows) + 0.7), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow([[min(1.0, max(0.0, v)) for v in row] for row in entries], cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(entries):
        for j, value in enumerate(row):
            colour = "white" if value > 0.55 else INK
            axes.text(j, i, f"{100 * value:.0f} %", ha="center", va="center", fontsize=12, color=colour)
    axes.set_xticks(range(len(columns)), columns, fontsize=12, color=INK)
    axes.set_yticks(range(len(rows)), rows, fontsize=12, color=INK)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_ylabel(down, fontsize=12, color=FAINT)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return png(figure)


def bars(values: dict[str, float], *, unit: str = "", floor: float | None = None) -> bytes:
    """Return named values as bars from the left; `floor` is drawn as the line no model can be better than."""
    figure = Figure(figsize=(6, 0.42 * len(values) + 0.7), layout="constrained")
    axes = figure.add_subplot()
    names = list(values)[::-1]
    axes.barh(names, [values[name] for name in names], color=ACCENT, height=0.6)
    for i, name in enumerate(names):
        axes.text(values[name], i, f" {values[name]:.3g}", va="center", fontsize=12, color=INK)
    if floor is not None:
        axes.axvline(floor, color=WARM, linewidth=1.5, linestyle=":")
        axes.text(floor, len(names) - 0.45, " real against real", fontsize=11, color=WARM, va="bottom")
    axes.set_xlabel(unit, fontsize=11, color=INK)
    _plain(axes)
    return png(figure)
