"""Dropping doubles, cutting masks, and photos in and out of the network's input, on cases worked by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.segmentation.contract import Segmenter
from training.segmentation.yolact.detection import (
    DetectionConfig,
    cross_class_nms,
    detect,
    fast_nms,
    traditional_nms,
)
from training.segmentation.yolact.masks import MaskConfig, crop, patches
from training.segmentation.yolact.network import Predictions, Yolact
from training.segmentation.yolact.photos import place, prepare
from training.segmentation.yolact.presets import FAST
from training.segmentation.yolact.segmenter import PUBLISHED, FinderConfig, YolactSegmenter

CHAIN = torch.tensor([[0.0, 0, 0.4, 0.4], [0.0, 0.1, 0.4, 0.5], [0.0, 0.2, 0.4, 0.6]])
"""Neighbours overlap by .6, the first and the last by .33."""


def kept(chosen) -> list[tuple[int, int]]:
    return list(zip(*(part.tolist() for part in chosen), strict=True))


def test_fast_nms_yields_to_boxes_that_are_dropped_themselves():
    scores = torch.tensor([[0.9], [0.8], [0.7]])
    assert kept(fast_nms(CHAIN, scores, DetectionConfig())) == [(0, 0)]
    assert kept(traditional_nms(CHAIN, scores, DetectionConfig(), 550)) == [(0, 0), (2, 0)]


def test_fast_nms_compares_within_a_class_only():
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.1, 0.1]])
    assert kept(fast_nms(CHAIN, scores, DetectionConfig()))[:2] == [(0, 0), (1, 1)]
    assert kept(cross_class_nms(CHAIN, scores, DetectionConfig())) == [(0, 0)]


def test_traditional_nms_counts_a_pixel_more_and_drops_equal_overlap():
    pair = torch.tensor([[0.0, 0, 8, 8], [0.0, 3, 8, 11]]) / 16
    scores = torch.tensor([[0.9], [0.8]])
    assert kept(traditional_nms(pair, scores, DetectionConfig(), 16)) == [(0, 0)]  # exactly .5 with the pixel
    assert len(kept(traditional_nms(pair * 17 / 16, scores, DetectionConfig(), 16))) == 2
    assert len(kept(fast_nms(pair, scores, DetectionConfig()))) == 2  # .4545 plainly


def test_cross_class_nms_has_no_cap_but_the_compared():
    side = 20
    corner = (
        torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).reshape(-1, 2) / side
    )
    boxes = torch.cat([corner, corner + 0.5 / side], 1)
    scores = torch.linspace(0.9, 0.1, len(boxes))[:, None]
    assert len(kept(cross_class_nms(boxes, scores, DetectionConfig()))) == 200
    assert len(kept(fast_nms(boxes, scores, DetectionConfig()))) == 100


def predictions(logits: torch.Tensor) -> Predictions:
    n = logits.shape[1]
    anchors = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.75, 0.5, 0.25, 0.5]])[:n]
    prototypes = torch.zeros(1, 16, 16, 2)
    prototypes[..., 0] = 9.0
    return Predictions(
        box_code=torch.zeros(1, n, 4),
        logits=logits,
        coefficients=torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])[:, :n],
        prototypes=prototypes,
        anchors=anchors,
    )


@pytest.mark.parametrize("suppression", ["fast", "cross-class", "traditional", "any-class"])
def test_nothing_is_found_where_all_is_background(suppression):
    [found] = detect(
        predictions(torch.tensor([[[9.0, 0, 0], [9, 0, 0]]])), DetectionConfig(suppression=suppression), 64
    )
    assert len(found) == 0 and found.box.shape == (0, 4) and found.coefficients.shape == (0, 2)


def test_detection_by_hand():
    logits = torch.log(torch.tensor([[[0.2, 0.7, 0.1], [0.4, 0.0, 0.6]]]))
    [found] = detect(predictions(logits), DetectionConfig(suppression="cross-class"), 64)
    assert found.label.tolist() == [0, 1]
    torch.testing.assert_close(found.score, torch.tensor([0.7, 0.6]))
    torch.testing.assert_close(found.box, torch.tensor([[0.125, 0.125, 0.375, 0.375], [0.625, 0.25, 0.875, 0.75]]))


def test_any_class_counts_all_classes_together():
    logits = torch.log(torch.tensor([[[0.3, 0.38, 0.32], [0.6, 0.1, 0.3]]]))
    config = DetectionConfig(suppression="any-class", threshold=0.5)
    [found] = detect(predictions(logits), config, 64)
    assert found.label.tolist() == [0]
    torch.testing.assert_close(found.score, torch.tensor([0.7]))
    [both] = detect(predictions(logits), replace(config, threshold=0.35), 64)
    torch.testing.assert_close(both.score, torch.tensor([0.7, 0.4]))
    assert both.label.tolist() == [0, 1]


def test_crop_keeps_one_pixel_around_the_box():
    masks = torch.ones(2, 8, 8)
    cut = crop(masks, torch.tensor([[0.25, 0.5, 0.5, 0.75], [0.5, 0.75, 0.25, 0.5]]))  # edges in either order
    assert torch.equal(cut[0], cut[1])
    assert torch.where(cut[0].any(0))[0].tolist() == [1, 2, 3, 4]
    assert torch.where(cut[0].any(1))[0].tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize(("height", "width"), [(37, 53), (16, 16), (200, 7)])
def test_patches_equal_bilinear_enlargement_of_the_whole(height, width, rng):
    prototypes, coefficients = torch.randn(16, 16, 4, generator=rng), torch.randn(3, 4, generator=rng)
    boxes = torch.tensor([[0.2, 0.3, 0.6, 0.7], [0.0, 0.0, 1.0, 1.0], [0.9, 0.9, 1.3, 1.2]])
    placement = place(height, width, 64, letterbox=False)
    whole = crop(torch.sigmoid(torch.einsum("hwk,nk->nhw", prototypes, coefficients)), boxes)
    whole = F.interpolate(whole[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    for ours, wanted in zip(patches(prototypes, coefficients, boxes, placement, MaskConfig()), whole, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours.paste(height, width)), wanted, rtol=0, atol=1e-5)


def test_sharp_cut_ends_at_the_grown_box():
    prototypes = torch.ones(16, 16, 1)
    placement = place(64, 64, 64, letterbox=False)
    box = torch.tensor([[0.25, 0.25, 0.75, 0.5]])
    [patch] = patches(prototypes, 9 * torch.ones(1, 1), box, placement, MaskConfig(sharp=True, margin=0.125))
    mask = patch.paste(64, 64) > 0.5
    assert np.flatnonzero(mask.any(0)).tolist() == list(range(12, 52))
    assert np.flatnonzero(mask.any(1)).tolist() == list(range(14, 34))


def test_small_parts_are_dropped():
    prototypes = torch.full((16, 16, 1), -9.0)
    prototypes[2:9, 2:9] = 9.0
    prototypes[13, 13] = 9.0
    placement = place(16, 16, 64, letterbox=False)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    for share, pixels in ((0.0, 50), (0.1, 49)):
        [patch] = patches(prototypes, torch.ones(1, 1), whole, placement, MaskConfig(smallest_part=share))
        assert int((patch.paste(16, 16) > 0.5).sum()) == pixels


def test_letterbox_keeps_the_aspect_ratio_and_maps_back():
    photo = torch.full((20, 40, 3), 255, dtype=torch.uint8)
    image, placement = prepare(photo, 64, letterbox=True)
    assert (image[0, :, :32] == 1).all() and (image[0, :, 32:] == 0).all()
    boxes = torch.tensor([[4.0, 2.0, 20.0, 10.0]])
    torch.testing.assert_close(placement.to_input(boxes), torch.tensor([[0.1, 0.05, 0.5, 0.25]]))
    torch.testing.assert_close(placement.to_photo(placement.to_input(boxes)), boxes)
    beyond = torch.tensor([[0.8, -0.2, 0.2, 0.9]])  # edges swapped, and out of the photo
    torch.testing.assert_close(placement.to_photo(beyond), torch.tensor([[8.0, 0.0, 32.0, 20.0]]))


def test_letterboxed_masks_come_out_at_the_photos_size():
    prototypes = torch.full((16, 16, 1), -9.0)
    prototypes[:4, 4:8] = 9.0
    placement = place(16, 32, 64, letterbox=True)  # the photo covers the upper half
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    [patch] = patches(prototypes, torch.ones(1, 1), whole, placement, MaskConfig())
    mask = patch.paste(16, 32) > 0.5
    assert np.flatnonzero(mask.any(0)).tolist() == list(range(8, 16))
    assert np.flatnonzero(mask.any(1)).tolist() == list(range(8))


@pytest.fixture(scope="module")
def finder() -> YolactSegmenter:
    torch.manual_seed(0)
    config = replace(FAST, size=64, pyramid_dim=16, protonet_dim=16, n_prototypes=8, mask_rescoring=False)
    network = Yolact(config)
    torch.nn.init.constant_(network.prediction_layers[0].conf_layer.bias, 0.0)  # type: ignore[union-attr, arg-type]
    return YolactSegmenter(network, FinderConfig(least=0.1, detection=DetectionConfig(threshold=0.1)))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (1, 1), (3, 90), (130, 20)])
def test_finder_gives_instances_of_the_contract(finder, height, width):
    assert isinstance(finder, Segmenter)
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    instances = finder(photo)
    for instance in instances:
        x0, y0, x1, y1 = instance.box
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        assert instance.mask.shape == (height, width) and instance.mask.dtype == np.float32
        assert instance.mask.min() >= 0 and instance.mask.max() <= 1 and instance.binary.any()
        assert instance.label in FAST.classes and 0.1 <= instance.score <= 1
    assert [i.score for i in instances] == sorted((i.score for i in instances), reverse=True)
    assert len(instances) <= 20


def test_mask_rescoring_multiplies_the_score():
    torch.manual_seed(0)
    network = Yolact(replace(FAST, size=256, pyramid_dim=8, protonet_dim=8, n_prototypes=4, mask_rescoring=True))
    torch.nn.init.constant_(network.maskiou_net.maskiou_net[10].bias, 0.5)  # type: ignore[union-attr, arg-type]
    torch.nn.init.zeros_(network.maskiou_net.maskiou_net[10].weight)  # type: ignore[union-attr, arg-type]
    photo = np.full((64, 64, 3), 90, np.uint8)
    found = list(YolactSegmenter(network, replace(PUBLISHED, most=5)).find(photo))
    assert found and all(f.mask_score == pytest.approx(f.score / 2) for f in found)


def test_settings_that_find_nothing_are_refused():
    with pytest.raises(ValueError, match="threshold"):
        DetectionConfig(threshold=1.0)
    with pytest.raises(ValueError, match="margin"):
        MaskConfig(margin=-1)
    with pytest.raises(ValueError, match="most"):
        FinderConfig(most=0)
