"""Table and plot of a sweep's trials."""

import contextlib
import csv
import functools
import io
import json
import math
from pathlib import Path
from typing import Any

from training.files import write_whole
from training.sweep.grid import choices_of, trials
from training.upgrade import renamed_fields


def parsed(text: str) -> list[dict[str, Any]]:
    """Return the lines of a log, without truncated ones."""
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def results(out: Path) -> list[dict[str, Any]]:
    """Return a row a trial, best first: its values, pictures seen, the metric's last and best, how it ended."""
    asked = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    best = min if asked["mode"] == "min" else max
    varied = [choices_of(text) for text in asked["vary"]]
    rows = []
    for name, config in trials(asked["preset"], asked["vary"]):
        names = renamed_fields(type(config))
        curve = metric_curve(out / "trials" / name, asked["metric"])
        seen = curve[-1][0] if curve else 0
        row: dict[str, Any] = {"trial": name}
        row |= {
            path: functools.reduce(getattr, names.get(path, path).split("."), config)
            for path, values in varied
            if len(values) > 1
        }
        row |= {"images": seen, "of": config.loop.images}
        row["last"] = curve[-1][1] if curve else math.nan
        row["best"] = best((value for _, value in curve), default=math.nan)
        rows.append(row)
    sign = 1 if asked["mode"] == "min" else -1
    return sorted(rows, key=lambda row: (math.isnan(row["last"]), sign * row["last"]))


def metric_curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Return (pictures seen, metric) of a run's log; lines that were repeated after a resume count once."""
    path = folder / "log.jsonl"
    lines = parsed(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else []
    return sorted({line["images"]: float(v) for line in lines if (v := metric_of(line, metric)) is not None}.items())


def metric_of(line: dict[str, Any], metric: str) -> float | None:
    """Return what a line of a log says of a metric, None if nothing; figures may be called without their `figures/`."""
    return line.get(metric, line.get(f"figures/{metric}"))


def write_results(out: Path) -> str:
    """Write `results.csv`, `results.txt` and `results.png` of a sweep's folder; return the text."""
    asked = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    rows = results(out)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(out / "results.csv", buffer.getvalue().encode())
    columns = [name for name in rows[0] if name != "trial"]
    lines = [
        columns,
        *([f"{v:.5g}" if isinstance(v, float) else str(v) for v in map(row.get, columns)] for row in rows),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    text = f"{asked['preset']}, {asked['metric']} ({asked['mode']} is best)\n{text}\n"
    write_whole(out / "results.txt", text.encode())
    curves = {row["trial"]: metric_curve(out / "trials" / row["trial"], asked["metric"]) for row in rows}
    write_whole(out / "results.png", _plot(curves, asked["metric"]))
    return text


def _plot(curves: dict[str, list[tuple[int, float]]], metric: str) -> bytes:
    """Return one line a trial, the best first in the legend, as PNG."""
    from matplotlib.figure import Figure

    from training.metrics.report_plots import png

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        axes.plot([seen for seen, _ in curve], [value for _, value in curve], label=name, linewidth=1.2)
    axes.set_xlabel("pictures seen")
    axes.set_ylabel(metric)
    axes.legend(fontsize=8)
    return png(figure)
