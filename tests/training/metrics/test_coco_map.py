"""Average precision: by hand, and as pycocotools computes it."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from training.data.coco import CocoSet, CocoWriter
from training.metrics.coco_map import CocoEvaluator, box_iou, mask_iou
from training.segmentation.contract import Instance

SIZE = (96, 120)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def instance(box: tuple[int, int, int, int], label: str, score: float) -> Instance:
    return Instance(
        rectangle(*box).astype(np.float32), (float(box[0]), float(box[1]), float(box[2]), float(box[3])), label, score
    )


def a_set(folder: Path, objects: list[list[tuple[tuple[int, int, int, int], str, bool]]]) -> CocoSet:
    (folder / "images").mkdir()
    writer = CocoWriter(["cat", "dog", "unused"])
    for k, items in enumerate(objects):
        PIL.Image.new("RGB", (SIZE[1], SIZE[0])).save(folder / "images" / f"{k}.png")
        image = writer.add_image(f"{k}.png", SIZE[1], SIZE[0])
        for box, label, crowd in items:
            writer.add(image, label, rectangle(*box), crowd=crowd)
    writer.write(folder / "all.json")
    return CocoSet(folder / "all.json")


def random_case(folder: Path, n: int = 30) -> tuple[CocoSet, list[list[Instance]]]:
    """Return a set and what a poor segmenter finds: moved, missed, doubled and mistaken objects, of all sizes."""
    rng = np.random.default_rng(1)
    truths, found = [], []
    for _ in range(n):
        items, guesses = [], []
        for _ in range(int(rng.integers(0, 5))):
            w, h = rng.integers(6, 70, 2)
            x, y = int(rng.integers(0, SIZE[1] - w)), int(rng.integers(0, SIZE[0] - h))
            label = ("cat", "dog")[int(rng.integers(2))]
            items.append(((x, y, x + int(w), y + int(h)), label, bool(rng.random() < 0.1)))
            for _ in range(int(rng.integers(0, 3))):
                edges = np.array(items[-1][0]) + rng.integers(-4, 5, 4)
                x0, y0 = edges[:2].clip(0, [SIZE[1] - 5, SIZE[0] - 5]).tolist()
                x1, y1 = max(x0 + 3, min(SIZE[1], int(edges[2]))), max(y0 + 3, min(SIZE[0], int(edges[3])))
                guess = label if rng.random() < 0.8 else "dog"
                guesses.append(instance((x0, y0, x1, y1), guess, float(rng.random())))
        truths.append(items)
        found.append(guesses)
    return a_set(folder, truths), found


def test_scores_are_those_of_pycocotools(tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = random_case(tmp_path)
    evaluator = CocoEvaluator(truth)
    for i, instances in enumerate(found):
        evaluator.add(i, instances)
    scores = evaluator.scores(bootstrap=5)
    content, detections = evaluator.content()
    with contextlib.redirect_stdout(io.StringIO()):
        reference: Any = COCO()  # its stubs know no data but files
        reference.dataset = content
        reference.createIndex()
        for kind, ours in (("bbox", scores.box), ("segm", scores.mask)):
            run: Any = COCOeval(reference, reference.loadRes([dict(d) for d in detections]), kind)  # type: ignore[arg-type]
            run.evaluate()
            run.accumulate()
            run.summarize()
            values = [ours.ap, ours.ap50, ours.ap75, ours.small, ours.medium, ours.large]
            assert [-1 if v is None else v for v in values] == pytest.approx(run.stats[:6].tolist(), abs=1e-9)
            assert 0.05 < run.stats[0] < 0.95  # a case that tells
    assert scores.classes["unused"]["mask_ap"] is None


def test_one_found_and_one_missed_by_hand(tmp_path):
    """Precision is 1 up to recall 1/2, and 0 beyond: 51 of 101 recalls."""
    truth = a_set(tmp_path, [[((10, 10, 50, 50), "cat", False), ((60, 10, 100, 50), "cat", False)]])
    evaluator = CocoEvaluator(truth)
    fit = evaluator.add(0, [instance((10, 10, 50, 50), "cat", 0.9)])
    scores = evaluator.scores(bootstrap=3)
    assert scores.mask.ap == pytest.approx(51 / 101)
    assert scores.box.ap50 == pytest.approx(51 / 101)
    assert scores.mask.medium == pytest.approx(51 / 101)
    assert scores.mask.large is None
    assert (fit.iou, fit.surest, fit.box) == (0.5, 1.0, 1.0)


def test_labels_may_count_as_one_class(tmp_path):
    truth = a_set(tmp_path, [[((10, 10, 50, 50), "cat", False)], [((10, 10, 50, 50), "dog", False)]])
    found = [instance((10, 10, 50, 50), "dog", 0.9)]
    apart, together = CocoEvaluator(truth), CocoEvaluator(truth, {"cat": "pet", "dog": "pet"})
    one = CocoEvaluator(truth, one_class=True)
    for i in range(2):
        apart.add(i, found)
        together.add(i, found)
        one.add(i, [instance((10, 10, 50, 50), "object", 0.9)])
    ap = apart.scores(bootstrap=0).mask.ap
    assert ap is not None and ap < 0.9
    assert together.scores(bootstrap=0).mask.ap == pytest.approx(1.0)
    assert one.scores(bootstrap=0).mask.ap == pytest.approx(1.0)


def test_small_sets_get_an_interval_that_holds_the_score(tmp_path):
    truth, found = random_case(tmp_path)
    evaluator = CocoEvaluator(truth)
    for i, instances in enumerate(found):
        evaluator.add(i, instances)
    scores = evaluator.scores(bootstrap=60)
    for precision in (scores.box, scores.mask):
        assert precision.interval is not None and precision.ap is not None
        low, high = precision.interval
        assert low <= precision.ap <= high
        assert 0.01 < high - low < 0.5
    assert evaluator.scores(bootstrap=60) == scores


def test_nothing_found_scores_zero_and_nothing_to_find_none(tmp_path):
    truth = a_set(tmp_path, [[((10, 10, 50, 50), "cat", False)], []])
    evaluator = CocoEvaluator(truth)
    with pytest.raises(ValueError, match="no picture was added"):
        evaluator.scores()
    evaluator.add(0, [])
    scores = evaluator.scores(bootstrap=3)
    assert scores.mask.ap == 0.0
    assert scores.summary()["best_mask_iou"] == 0.0
    empty = CocoEvaluator(truth)
    assert empty.add(1, []).iou == 1.0
    assert empty.scores(bootstrap=3).mask.ap is None
    with pytest.raises(ValueError, match="added already"):
        empty.add(1, [])


def test_overlaps_by_hand():
    assert box_iou((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(8 / 24)
    assert box_iou((0, 0, 4, 4), (4, 0, 6, 4)) == 0
    assert mask_iou(rectangle(0, 0, 4, 4), rectangle(2, 0, 6, 4)) == pytest.approx(8 / 24)


def test_boxes_are_ranked_by_their_own_scores(tmp_path):
    truth = a_set(tmp_path, [[((10, 10, 50, 50), "cat", False)]])
    evaluator = CocoEvaluator(truth)
    right = replace(instance((10, 10, 50, 50), "cat", 0.2), box_score=0.9)
    wrong = replace(instance((60, 60, 90, 90), "cat", 0.6), box_score=0.6)
    evaluator.add(0, [right, wrong])
    scores = evaluator.scores(bootstrap=0)
    assert scores.box.ap == pytest.approx(1.0)
    assert scores.mask.ap == pytest.approx(0.5)
    assert all("box_score" not in item for item in evaluator.content()[1])
