"""The summary of a prepared set: exact counts of photos that were paired, skipped, left out or suspicious."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from training.data.photo_writer import BACKDROP, FOUND, MASK_LIKE, MIDDLE, UNSURE, Written
from training.data.sources import Reading
from training.data.tables import texts

log = logging.getLogger(__name__)
NAMED = 10
"""Photos left out for the same reason that are named in the log; more are only counted."""


@dataclass(slots=True, kw_only=True)
class Account:
    """The result for each photo of a source."""

    reading: Reading
    finder: str = ""
    """Name of the object finder; "" if none was used."""
    written: list[Written] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """One sentence for each photo that was left out."""
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, result: Written | str) -> None:
        """Count one photo; log its name if it is left out."""
        if not isinstance(result, str):
            self.written.append(result)
            return
        self.left_out.append(result)
        reason = reason_of(name, result)
        self.reasons[reason] += 1
        if self.reasons[reason] <= NAMED:
            log.warning("left out: %s", result)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return the lines of the index."""
        return [one.row for one in self.written]

    @property
    def odd(self) -> list[str]:
        """Return the files of suspicious photos."""
        return [one.row["file"] for one in self.written if one.odd]

    def masks_among_photos(self) -> list[Written]:
        """Return photos that look like masks; none if most of the set does, because then it consists of drawings."""
        alike = [one for one in self.written if MASK_LIKE in one.odd]
        return alike if 2 * len(alike) < len(self.written) else []

    def drop(self, one: Written, why: str) -> None:
        """Remove a photo that was already counted."""
        self.written.remove(one)
        self.add(one.row["source"], f"{one.row['source']}: {why}")

    def counts(self, n_masks: int) -> dict[str, Any]:
        """Return the exact counts, for `set.json`."""
        rows = self.rows
        twice, across = self._twice()
        odd = Counter(why for one in self.written for why in one.odd)
        if twice:
            odd["same picture as another"] = twice
        if across:
            odd["same picture as one of another split"] = across
        return {
            "photos": len(rows) + len(self.left_out),
            "taken": len(rows),
            "splits": dict(Counter(row["split"] for row in rows)),
            "labels": dict(Counter(row["label"] for row in rows).most_common(1000)),
            "boxes": dict(Counter(row["box_from"] or "none" for row in rows)),
            "finder": self._finder(),
            "masks": {"with": n_masks, "without": len(rows) - n_masks},
            "left_out": dict(self.reasons),
            "passed_over": dict(self.reading.passed_over),
            "suspicious": dict(odd),
            "noted": dict(Counter(note for one in self.written for note in one.noted)),
        }

    def _finder(self) -> dict[str, Any]:
        """Return counts of the finder's confident, unconfident and missing results."""
        if not self.finder:
            return {}
        boxes = Counter(row["box_from"] for row in self.rows)
        masks = sum(row.get("mask_from") == "finder" for row in self.rows)
        return {"name": self.finder, **{k: boxes[k] for k in (FOUND, UNSURE, BACKDROP, MIDDLE)}, "masks": masks}

    def _twice(self) -> tuple[int, int]:
        """Return how many pictures are duplicates, and how many of these are in different splits."""
        splits: dict[bytes, list[str]] = {}
        for one in self.written:
            splits.setdefault(one.digest, []).append(one.row["split"])
        several = [of_one for of_one in splits.values() if len(of_one) > 1]
        return sum(len(of_one) - 1 for of_one in several), sum(len(set(of_one)) > 1 for of_one in several)


def reason_of(name: str, sentence: str) -> str:
    """Return the kind of reason in a sentence about one photo: the sentence without name and numbers."""
    text = sentence.replace(name, "", 1).lstrip(": ")
    text = re.sub(r"mask \S+\.\w+", "mask", text)
    text = re.split(r"[;(]", text)[0]
    return re.sub(r"-?\d[\d.]*( x \d+)?( %|%)?", "N", text).strip(" .:")


def show(out: str, counts: dict[str, Any], said: Sequence[str]) -> None:
    """Log the summary as one table; what needs attention is a warning."""
    log.info("%s: %d photos in the source", out, counts["photos"])
    for name, words in (
        ("finder", _finder_words(counts["finder"])),
        ("taken", _words(counts["splits"])),
        ("labels", texts((f"{n} {label or 'without'}" for label, n in counts["labels"].items()), 8)),
        ("boxes", _words(counts["boxes"])),
        ("masks", _words(counts["masks"])),
        ("skipped", _words(counts["passed_over"])),
        ("noted", _words(counts["noted"])),
    ):
        if words:
            log.info("  %-12s %s", name, words)
    for name in ("left_out", "suspicious"):
        if counts[name]:
            log.warning("  %-12s %s", name.replace("_", " "), _words(counts[name]))
    for sentence in said:
        log.warning("  %s", sentence)


def _finder_words(counts: dict[str, Any]) -> str:
    """Return the finder's counts as text; "" if it was not used."""
    if not any(counts.get(name) for name in (FOUND, UNSURE, BACKDROP, MIDDLE, "masks")):
        return ""
    fell = counts[BACKDROP] + counts[MIDDLE]
    return (
        f"{counts['name']}: {counts[FOUND]} found, {counts[UNSURE]} unsure, {fell} fell back "
        f"({counts[BACKDROP]} to what stands out, {counts[MIDDLE]} to the middle); {counts['masks']} masks"
    )


def _words(counts: dict[str, int]) -> str:
    """Return counts in a line, the largest first."""
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items(), key=lambda item: -item[1]))
