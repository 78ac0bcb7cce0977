"""Matching and losses on cases worked by hand, and where their sums have nothing to sum."""

import math
from dataclasses import replace

import pytest
import torch

from training.batched import fields_of
from training.segmentation.yolact.losses import LossWeights, at_size, losses, segmentation_loss
from training.segmentation.yolact.matching import NEUTRAL, MatchConfig, hard_negatives, match
from training.segmentation.yolact.network import MaskIoU, Predictions
from training.types import Instances

ANCHORS = torch.tensor([[0.2, 0.2, 0.4, 0.4], [0.5, 0.5, 0.4, 0.4], [0.8, 0.8, 0.4, 0.4], [0.2, 0.8, 0.4, 0.4]])


def objects(boxes: list, labels: list[int], crowd: list[bool] | None = None, side: int = 16) -> Instances:
    box = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    mask = torch.zeros(len(box), side, side, dtype=torch.bool)
    for i, (x0, y0, x1, y1) in enumerate((box * side).round().long().tolist()):
        mask[i, y0:y1, x0:x1] = True
    flags = torch.tensor(crowd if crowd is not None else [False] * len(box), dtype=torch.bool)
    return Instances(box=box, label=torch.tensor(labels, dtype=torch.int64), mask=mask, crowd=flags)


def predictions(n: int = 1, classes: int = 2) -> Predictions:
    return Predictions(
        box_code=torch.zeros(n, 4, 4),
        logits=torch.zeros(n, 4, classes + 1),
        coefficients=torch.zeros(n, 4, 3),
        prototypes=torch.zeros(n, 8, 8, 3),
        anchors=ANCHORS,
    )


def test_matching_by_hand():
    # exactly the first anchor; one that overlaps the third by a ninth only, and still claims it
    m = match(ANCHORS, objects([[0, 0, 0.4, 0.4], [0.9, 0.9, 1.0, 1.0]], [1, 0]), MatchConfig())
    assert m.label.tolist() == [2, 0, 1, 0]
    assert m.object[[0, 2]].tolist() == [0, 1]
    torch.testing.assert_close(m.code[0], torch.zeros(4))
    torch.testing.assert_close(m.code[2], torch.tensor([3.75, 3.75, 5 * math.log(0.25), 5 * math.log(0.25)]))


def test_anchors_between_the_limits_are_neutral():
    shifted = 0.4 * (1 - 0.45) / (1 + 0.45)  # IoU .45 with the first anchor
    truth = objects([[0, 0, 0.4, 0.4], [shifted, 0, 0.4 + shifted, 0.4]], [0, 1])
    one = replace(truth, box=truth.box[1:], label=truth.label[1:], mask=truth.mask[1:], crowd=truth.crowd[1:])
    anchors = torch.cat([ANCHORS, torch.tensor([[0.2 + shifted, 0.2, 0.4, 0.4]])])
    assert match(anchors, one, MatchConfig()).label.tolist() == [NEUTRAL, 0, 0, 0, 2]


def test_two_boxes_on_one_anchor_claim_two():
    truth = objects([[0, 0, 0.4, 0.4], [0.01, 0.01, 0.41, 0.41]], [0, 1])
    m = match(ANCHORS, truth, MatchConfig())
    assert m.label[0] == 1 and (m.label == 2).sum() == 1


def test_crowds_make_background_neutral_and_are_never_matched():
    m = match(ANCHORS, objects([[0, 0, 0.4, 0.4], [0.5, 0.5, 1, 1]], [0, 0], [False, True]), MatchConfig())
    assert m.label.tolist() == [1, 0, NEUTRAL, 0]
    alone = match(ANCHORS, objects([[0.5, 0.5, 1, 1]], [0], [True]), MatchConfig())
    assert alone.label.tolist() == [0, 0, NEUTRAL, 0]


def test_hard_negatives_are_those_surest_of_an_object():
    m = match(ANCHORS, objects([[0, 0, 0.4, 0.4]], [0]), MatchConfig())
    logits = torch.tensor([[0.0, 9, 0], [0, 1, 0], [0, 5, 0], [0, 3, 0]])
    assert hard_negatives(logits, m, MatchConfig(negatives=2)).tolist() == [False, False, True, True]
    empty = match(ANCHORS, objects([], []), MatchConfig())
    assert not hard_negatives(logits, empty, MatchConfig()).any()
    assert hard_negatives(logits, empty, MatchConfig(negatives_alone=1)).tolist() == [True, False, False, False]


def test_losses_by_hand():
    found, truth = predictions(), [objects([[0, 0, 0.5, 0.5]], [1])]
    m = match(ANCHORS, truth[0], MatchConfig())
    terms = losses(found, torch.zeros(1, 2, 4, 4), truth, LossWeights(), MatchConfig(), rng=torch.Generator())
    assert m.positive.tolist() == [True, False, False, False]
    expected = torch.nn.functional.smooth_l1_loss(torch.zeros(4), m.code[0], reduction="sum")
    assert float(terms["B"]) == pytest.approx(1.5 * float(expected))
    assert float(terms["C"]) == pytest.approx(4 * math.log(3))  # the positive, and 3 negatives
    # sigmoid(0) = .5 in the box and one pixel around it: 5 x 5 of 8 x 8, over an area of 4 x 4
    assert float(terms["M"]) == pytest.approx(6.125 * 25 * math.log(2) / 16)
    assert float(terms["S"]) == pytest.approx(2 * math.log(2))


def test_pictures_without_objects_give_finite_losses():
    found = predictions(2)
    truth = [objects([], []), objects([[0.5, 0.5, 1, 1]], [0], [True])]
    terms = losses(found, torch.zeros(2, 2, 4, 4), truth, LossWeights(), MatchConfig(), rng=torch.Generator())
    assert [float(terms[name]) for name in "BCM"] == [0, 0, 0] and float(terms["S"]) > 0
    taught = losses(found, None, truth, LossWeights(), MatchConfig(negatives_alone=2), rng=torch.Generator())
    assert float(taught["C"]) == pytest.approx(4 * math.log(3)) and "S" not in taught


def test_many_positives_are_sampled_and_weighted(rng):
    found = replace(predictions(), coefficients=torch.randn(1, 4, 3, generator=rng))
    truth = [objects([[0, 0, 0.4, 0.4], [0.3, 0.3, 0.7, 0.7], [0.6, 0.6, 1, 1], [0, 0.6, 0.4, 1]], [0, 1, 0, 1])]
    whole = losses(found, None, truth, LossWeights(), MatchConfig(), rng=rng)["M"]
    few = [losses(found, None, truth, LossWeights(masks_learnt=2), MatchConfig(), rng=rng)["M"] for _ in range(40)]
    assert float(torch.stack(few).mean()) == pytest.approx(float(whole), rel=0.05)


def test_segmentation_takes_the_union_of_a_class():
    truth = objects([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], [1, 1])
    sure = torch.full((1, 2, 4, 4), -30.0)
    sure[0, 1, :2, :2] = sure[0, 1, 2:, 2:] = 30
    assert float(segmentation_loss(sure, [truth])) == pytest.approx(0, abs=1e-6)
    assert at_size(truth, (4, 4)).sum() == 8


def test_mask_iou_learns_the_true_overlap(rng):
    torch.manual_seed(0)
    network = MaskIoU(2)
    side = 138
    found = Predictions(
        box_code=torch.zeros(1, 1, 4),
        logits=torch.zeros(1, 1, 3),
        coefficients=torch.ones(1, 1, 1).requires_grad_(),
        prototypes=torch.ones(1, side, side, 1),
        anchors=torch.tensor([[0.5, 0.5, 0.5, 0.5]]),
    )
    truth = [objects([[0.25, 0.25, 0.75, 0.75]], [1], side=side)]
    terms = losses(found, None, truth, LossWeights(), MatchConfig(), rng=rng, mask_iou=network)
    guess = float(
        network(torch.nn.functional.pad(torch.full((1, 1, 71, 71), 1 / (1 + math.exp(-1))), (34, 33, 34, 33)))[
            0, 1
        ].detach()
    )
    true = 70**2 / 71**2
    assert float(terms["I"].detach()) == pytest.approx(25 * 0.5 * (guess - true) ** 2, rel=0.05)
    small = replace(truth[0], mask=torch.zeros_like(truth[0].mask))
    assert float(losses(found, None, [small], LossWeights(), MatchConfig(), rng=rng, mask_iou=network)["I"]) == 0


def test_limits_out_of_order_are_refused():
    with pytest.raises(ValueError, match="negative"):
        MatchConfig(positive=0.3, negative=0.4)


def test_losses_of_two_processes_are_those_of_one(monkeypatch):
    truth = [
        objects([[0, 0, 0.4, 0.4], [0.6, 0.6, 1, 1], [0.3, 0.3, 0.7, 0.7]], [0, 1, 0]),
        objects([[0, 0, 0.4, 0.4]], [1]),
    ]
    rng = torch.Generator().manual_seed(0)
    found = replace(
        predictions(2),
        logits=torch.randn(2, 4, 3, generator=rng),
        box_code=torch.randn(2, 4, 4, generator=rng),
        coefficients=torch.randn(2, 4, 3, generator=rng),
        prototypes=torch.rand(2, 8, 8, 3, generator=rng),
    )

    def of(rows: list[int]) -> dict[str, torch.Tensor]:
        part = Predictions(
            **{name: value if name == "anchors" else value[rows] for name, value in fields_of(found).items()}
        )
        return losses(part, None, [truth[i] for i in rows], LossWeights(), MatchConfig(), rng=torch.Generator())

    whole = of([0, 1])
    monkeypatch.setattr("training.segmentation.yolact.losses.same_mean", lambda positives: torch.tensor((3 + 1) / 2))
    first, second = of([0]), of([1])
    for name, value in whole.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, value)
