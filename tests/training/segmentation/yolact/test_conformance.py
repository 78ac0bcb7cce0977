"""The published networks against the authors' own programs: see `tests/conformance/cases.py`."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conformance.cases import fill, load_case, relative_error
from training.segmentation.yolact.detection import DetectionConfig, Detections, Suppression, detect
from training.segmentation.yolact.losses import LossWeights, losses
from training.segmentation.yolact.masks import MaskConfig, patches
from training.segmentation.yolact.matching import MatchConfig, hard_negatives, match
from training.segmentation.yolact.network import Predictions, Yolact
from training.segmentation.yolact.photos import prepare
from training.segmentation.yolact.published import NETWORKS
from training.segmentation.yolact.video import carry, feature_loss, flow_loss, key_frame
from training.types import Instances

TOLERANCE = 1e-3
"""Of dense outputs: the difference's root mean square over the stored output's standard deviation."""


@cache
def imported(name: str) -> tuple[Yolact, dict, dict[str, Tensor]]:
    """Return a case's network with its weights, its description and its arrays."""
    case, arrays = load_case(name)
    with torch.device("meta"):
        network = Yolact(NETWORKS[case["config"]])
    network.load_state_dict(fill(case["checkpoint"]["weights"]), assign=True)
    return network.eval().requires_grad_(False), case, arrays


def near(ours: Tensor, stored: Tensor) -> bool:
    return relative_error(ours.to(stored.dtype).float(), stored.float()) <= TOLERANCE


def check_predictions(found: Predictions, levels: list[Tensor], arrays: dict[str, Tensor], prefix: str = "") -> None:
    for i, level in enumerate(levels):
        assert near(level[0, ::16], arrays[f"{prefix}p{i + 3}"]), f"P{i + 3}"
        stats = torch.stack([level[0].mean((1, 2)), level[0].std((1, 2), correction=0)])
        assert near(stats, arrays[f"{prefix}p{i + 3}_stats"]), f"P{i + 3}"
    assert near(found.prototypes[0, ::3, ::3], arrays[f"{prefix}proto"])
    for ours, name in ((found.box_code, "loc"), (found.logits, "logits"), (found.coefficients, "coef")):
        assert near(ours[0, ::7], arrays[f"{prefix}{name}"]), name
        assert near(ours[0].mean(0), arrays[f"{prefix}{name}_mean"]), name


def check_detections(ours: Detections, stored: dict[str, Tensor], prefix: str) -> None:
    """Every stored detection is found and none invented, but for those at the cut."""
    label, score, box = (stored[f"{prefix}_{name}"] for name in ("class", "score", "box"))
    same = ours.label[:, None] == label.long()[None]
    close = (ours.box[:, None] - box[None]).abs().amax(2) <= 2e-4
    equal = same & close & ((ours.score[:, None] - score[None]).abs() <= 2e-4)
    certain = float(score.min()) + 1e-4
    assert equal.any(0)[score > certain].all()
    assert equal.any(1)[ours.score > certain].all()
    assert abs(len(ours) - len(score)) <= int((score <= certain).sum())


def check_masks(ours: Detections, found: Predictions, photo: Tensor, stored: dict[str, Tensor], prefix: str) -> None:
    height, width = photo.shape[:2]
    placement = prepare(photo, 550, letterbox=False)[1]
    boxes = placement.to_photo(ours.box).long()
    assert (boxes - stored[f"{prefix}_box"].long()).abs().max() <= 1
    for name, config in (("_mask_area", MaskConfig()), ("_mask_area_uncropped", MaskConfig(cut=False))):
        if f"{prefix}{name}" not in stored:
            continue
        areas = stored[f"{prefix}{name}"].double()
        bits = stored[f"{prefix}_masks"].numpy()
        cuts = patches(found.prototypes[0], ours.coefficients, ours.box, placement, config)
        for i, patch in enumerate(cuts):
            mask = patch.paste(height, width) > 0.5
            assert abs(mask.sum() - float(areas[i])) <= max(3, 0.01 * float(areas[i]))
            if i < len(bits) and config.cut:
                wanted = np.unpackbits(bits[i], count=height * width).reshape(height, width).astype(bool)
                assert (mask & wanted).sum() >= 0.995 * (mask | wanted).sum()


@pytest.fixture(scope="module")
def yolact() -> SimpleNamespace:
    """Return what YOLACT with ResNet-50 says of the case's two photos."""
    network, case, arrays = imported("yolact_resnet50")
    images = torch.cat([prepare(arrays[name], 550, letterbox=False)[0] for name in ("in_photo", "in_photo2")])
    features = network.backbone(network.backbone.normalise(images))
    levels = network.outputs.levels(network.laterals.sums(features))
    return SimpleNamespace(
        network=network,
        case=case,
        arrays=arrays,
        images=images,
        features=features,
        levels=levels,
        found=network.predict(levels),
        segmentation=network.semantic_seg_conv(levels[0]),
        truth=[truth_of(arrays, i) for i in (0, 1)],
    )


def truth_of(arrays: dict[str, Tensor], i: int) -> Instances:
    rows = arrays[f"in_gt{i}"]
    bits = np.unpackbits(arrays[f"in_gt_masks{i}"].numpy(), axis=1, count=550 * 550)
    masks = torch.from_numpy(bits.reshape(-1, 550, 550).astype(bool))
    return Instances(box=rows[:, :4], label=rows[:, 4].long().clamp(min=0), mask=masks, crowd=rows[:, 4] < 0)


def only(found: Predictions, i: int) -> Predictions:
    parts = {name: getattr(found, name)[i : i + 1] for name in ("box_code", "logits", "coefficients", "prototypes")}
    return replace(found, **parts)


def test_photo_is_prepared_as_published(yolact):
    ours = yolact.network.backbone.normalise(yolact.images)[0]
    assert near(ours[:, ::5, ::5], yolact.arrays["pre_input"])
    stats = torch.stack([ours.mean((1, 2)), ours.std((1, 2), correction=0)])
    assert near(stats, yolact.arrays["pre_stats"])


def test_trunk_pyramid_and_head(yolact):
    for i, feature in enumerate(yolact.features):
        assert near(feature[0, ::64, ::2, ::2], yolact.arrays[f"c{i + 1}"])
    check_predictions(only(yolact.found, 0), yolact.levels, yolact.arrays)
    assert (yolact.found.anchors[::7] - yolact.arrays["priors"]).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("suppression", "prefix"), [("fast", "det"), ("cross-class", "cross"), ("traditional", "trad")]
)
def test_detections(yolact, suppression: Suppression, prefix: str):
    [ours] = detect(only(yolact.found, 0), DetectionConfig(suppression=suppression), 550)
    check_detections(ours, yolact.arrays, prefix)


def test_masks(yolact):
    [ours] = detect(only(yolact.found, 0), DetectionConfig(), 550)
    check_masks(ours, yolact.found, yolact.arrays["in_photo"], yolact.arrays, "post")


@pytest.mark.parametrize("i", [0, 1])
def test_matching_is_exact(yolact, i: int):
    stored = yolact.arrays
    m = match(yolact.found.anchors, yolact.truth[i], MatchConfig())
    assert torch.equal(m.label, stored[f"loss_match_conf{i}"].long())
    assert torch.equal(torch.where(m.positive)[0], stored[f"loss_pos{i}"].long())
    assert torch.equal(m.object[m.positive], stored[f"loss_pos_gt{i}"].long())
    torch.testing.assert_close(m.code[m.positive], stored[f"loss_pos_loc{i}"], rtol=0, atol=1e-6)
    learnt = m.positive | hard_negatives(yolact.found.logits[i], m, MatchConfig())
    assert len(set(torch.where(learnt)[0].tolist()) ^ set(stored[f"loss_chosen{i}"].tolist())) <= 2


def test_losses_and_their_gradients(yolact):
    names = {"box_code": "loc", "logits": "conf", "coefficients": "mask", "prototypes": "proto"}
    leaves = {name: getattr(yolact.found, name).clone().requires_grad_() for name in names}
    segmentation = yolact.segmentation.clone().requires_grad_()
    assert near(segmentation.detach()[:, ::8, ::3, ::3], yolact.arrays["loss_segm"])
    found = replace(yolact.found, **leaves)
    terms = losses(found, segmentation, yolact.truth, LossWeights(), MatchConfig(), rng=torch.Generator())
    for name, wanted in yolact.case["losses"].items():
        assert float(terms[name].detach()) == pytest.approx(wanted, rel=1e-3), name
    torch.stack(list(terms.values())).sum().backward()
    norms = {names[name]: leaf.grad.norm() for name, leaf in leaves.items() if leaf.grad is not None}
    assert segmentation.grad is not None
    for name, norm in (norms | {"segm": segmentation.grad.norm()}).items():
        assert float(norm) == pytest.approx(yolact.case["grad_norms"][name], rel=1e-2), name


def test_yolact_edge_on_a_picture():
    network, _, arrays = imported("yolact_edge_resnet50")
    levels = network.pyramid(prepare(arrays["in_frame0"], 550, letterbox=False)[0])
    found = network.predict(levels)
    check_predictions(found, levels, arrays, "key_")
    [ours] = detect(found, DetectionConfig(), 550)
    check_detections(ours, arrays, "key_det")
    check_masks(ours, found, arrays["in_frame0"], arrays, "key_post")


@pytest.fixture(scope="module")
def video() -> SimpleNamespace:
    """Return what YolactEdge's video network says of the case's key frame and of the frame after it."""
    network, case, arrays = imported("yolact_edge_vid_resnet50")
    first, second = (prepare(arrays[f"in_frame{i}"], 550, letterbox=False)[0] for i in (0, 1))
    _, key = key_frame(network, first)
    carried = carry(network, second, key, finest=True)
    return SimpleNamespace(network=network, case=case, arrays=arrays, key=key, second=second, carried=carried)


def test_key_frame_and_flow(video):
    stored = video.arrays
    for i in (3, 5):
        assert near(video.key.sums[i - 3][0, ::16], stored[f"key_sum{i}"])
    assert near(video.key.lateral[0, ::16], stored["key_lateral"])
    assert near(video.network.flow_net_pre_convs(video.carried.lateral)[0, ::8], stored["flow_in_target"])
    for i, flow in zip((4, 5), video.carried.flows[1:], strict=True):
        assert near(flow.shift[0], stored[f"flow{i}"])
        assert near(flow.scale[0, ::16], stored[f"flow_scale{i}"])
        assert near(flow.bias[0, ::16], stored[f"flow_bias{i}"])


def test_frame_between_key_frames(video):
    stored, carried = video.arrays, video.carried
    assert near(carried.lateral[0, ::16], stored["between_lateral"])
    assert near(carried.sums[0][0, ::16], stored["between_sum3"])
    for i in (4, 5):
        assert near(carried.warped[i - 4][0, ::16], stored[f"warped{i}"])
        assert near(carried.sums[i - 3][0, ::16], stored[f"spa{i}"])
    levels = video.network.outputs.levels(carried.sums)
    found = video.network.predict(levels)
    check_predictions(found, levels, stored, "between_")
    [ours] = detect(found, DetectionConfig(), 550)
    check_detections(ours, stored, "between_det")
    check_masks(ours, found, stored["in_frame1"], stored, "between_post")


def test_video_losses(video):
    network = video.network
    true = network.laterals.sums(network.backbone(network.backbone.normalise(video.second)))
    W = feature_loss(network, video.carried.sums[1:], true[1:])
    assert float(W) == pytest.approx(video.case["feature_loss_W"], rel=1e-3)
    ramp = torch.arange(550) / 550
    flow = torch.stack([(0.3 + 0.2 * ramp).expand(550, 550), (-0.1 + 0.4 * ramp)[:, None].expand(550, 550)])[None]
    F = flow_loss(video.carried.flows, flow)
    assert float(F) == pytest.approx(video.case["flow_loss_F"], rel=1e-3)
    right = feature_loss(network, video.carried.sums[1:], true[1:], published=False)
    assert float(right) != pytest.approx(float(W), rel=1e-3)
