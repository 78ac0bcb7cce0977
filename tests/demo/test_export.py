"""Layers out: cut-outs that give the picture again, masks, depth with its range, OpenRaster to its specification."""

import io
import xml.etree.ElementTree as ElementTree
import zipfile

import numpy as np
import PIL.Image
import pytest
import torch
from psd_tools import PSDImage

from demo.export import cutout, layer_png, open_raster, photoshop, quick, stack_of, strip, views
from demo.models import Model
from demo.recipes import PictureRecipe, layers_of
from tests.toys import Blocks, Patches, scenes
from training.pictures import to_pil

BLOCKS = Model(name="blocks", generator=Blocks().eval())
PATCHES = Model(name="patches", generator=Patches().eval())
SCENES = Model(name="scenes", generator=scenes())
MODELS = pytest.mark.parametrize("model", [BLOCKS, PATCHES], ids=lambda model: model.name)


def opened(data: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data))


@MODELS
def test_the_cut_out_over_the_background_is_the_picture(model):
    layers = layers_of(model, PictureRecipe(checkpoint=model.name, seed=2))
    over = PIL.Image.alpha_composite(to_pil(layers.background)[0].convert("RGBA"), cutout(layers)).convert("RGB")
    apart = np.abs(np.asarray(over).astype(int) - np.asarray(to_pil(layers.image)[0]).astype(int))
    assert apart.max() <= 2


def test_a_cut_out_of_soft_edges_gives_the_picture_again():
    rng = torch.Generator().manual_seed(0)
    shape = (1, 3, 16, 16)
    mask = torch.rand(1, 1, 16, 16, generator=rng)
    colour, background = (2 * torch.rand(2, *shape, generator=rng) - 1).unbind(0)
    layers = layers_of(PATCHES, PictureRecipe(checkpoint="patches"))
    layers = type(layers)(
        image=mask * colour + (1 - mask) * background,
        background=background,
        parent=background,
        mask=mask,
        parent_mask=mask,
        child_mask=mask,
    )
    over = PIL.Image.alpha_composite(to_pil(background)[0].convert("RGBA"), cutout(layers)).convert("RGB")
    apart = np.abs(np.asarray(over).astype(int) - np.asarray(to_pil(layers.image)[0]).astype(int))
    assert apart.max() <= 3


@MODELS
def test_the_strip_holds_every_layer_once(model):
    layers = layers_of(model, PictureRecipe(checkpoint=model.name))
    shown = views(layers)
    assert next(iter(shown)) == "image"
    assert strip(layers).size == (64 * len(shown), 64)
    assert np.array_equal(np.asarray(strip(layers))[:, :64], np.asarray(to_pil(layers.image)[0]))


def test_layers_of_several_objects_are_shown_and_saved_one_by_one():
    layers = layers_of(SCENES, PictureRecipe(checkpoint="scenes", knobs={"x_1": -40, "x_2": 40}))
    assert list(views(layers)) == ["image", "mask", "alpha_1", "alpha_2", "depth"]
    assert strip(layers).size == (16 * 5, 16)
    first, second = (np.asarray(opened(layer_png(layers, name))) for name in ("alpha_1", "alpha_2"))
    assert first.any() and second.any() and not np.array_equal(first, second)
    assert np.array_equal(np.asarray(cutout(layers))[..., :3], np.asarray(to_pil(layers.image)[0]))
    with zipfile.ZipFile(io.BytesIO(open_raster(layers, PictureRecipe(checkpoint="scenes")))) as archive:
        entries = ElementTree.fromstring(archive.read("stack.xml")).findall("./stack/layer")
        assert [e.get("name") for e in entries if e.get("visibility") == "visible"] == ["picture"]
        assert [e.get("name") for e in entries][2:] == ["mask", "alpha_1", "alpha_2", "depth"]


def test_small_live_pictures_lose_nothing_and_large_ones_are_jpeg():
    layers = layers_of(BLOCKS, PictureRecipe(checkpoint="blocks"))
    data, kind = quick(strip(layers))
    assert kind == "image/webp"
    assert np.array_equal(np.asarray(opened(data).convert("RGB")), np.asarray(strip(layers)))
    assert quick(PIL.Image.new("RGB", (512, 256)))[1] == "image/jpeg"


def test_depth_is_sixteen_bits_and_says_its_range():
    layers = layers_of(BLOCKS, PictureRecipe(checkpoint="blocks"))
    picture = opened(layer_png(layers, "depth"))
    levels = np.asarray(picture)
    depth = layers.depth[0, 0].numpy()
    assert levels.dtype == np.uint16
    assert (levels == 0).tolist() == (depth == 0).tolist()
    assert levels[depth == depth[depth > 0].min()].max() == 65535
    assert levels[depth == depth.max()].min() == 1
    assert f"{depth.max():.6g}" in picture.info["depth"]


def test_masks_are_grey_and_unknown_layers_are_refused():
    layers = layers_of(BLOCKS, PictureRecipe(checkpoint="blocks"))
    mask = opened(layer_png(layers, "mask"))
    assert mask.mode == "L"
    assert np.array_equal(np.asarray(mask) > 0, layers.mask[0, 0].numpy() > 0)
    with pytest.raises(ValueError, match="there is no layer 'roof'; this picture has image, foreground"):
        layer_png(layers, "roof")


@MODELS
def test_open_raster_keeps_its_specification(model):
    recipe = PictureRecipe(checkpoint=model.name)
    layers = layers_of(model, recipe)
    with zipfile.ZipFile(io.BytesIO(open_raster(layers, recipe))) as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        assert archive.read("mimetype") == b"image/openraster"
        stack = ElementTree.fromstring(archive.read("stack.xml"))
        entries = stack.findall("./stack/layer")
        assert [stack.get("w"), stack.get("h")] == ["64", "64"]
        assert [entry.get("name") for entry in entries][:2] == ["object", "background"]
        pictures = [opened(archive.read(entry.get("src") or "")).convert("RGBA") for entry in entries]
        visible = [p for p, entry in zip(pictures, entries, strict=True) if entry.get("visibility") == "visible"]
        merged = opened(archive.read("mergedimage.png")).convert("RGB")
        assert max(opened(archive.read("Thumbnails/thumbnail.png")).size) <= 256
    flat = PIL.Image.new("RGBA", (64, 64))
    for picture in reversed(visible):  # the first layer of a stack lies on top
        flat = PIL.Image.alpha_composite(flat, picture)
    apart = np.abs(np.asarray(flat.convert("RGB")).astype(int) - np.asarray(merged).astype(int))
    assert apart.max() <= 2


@MODELS
def test_a_psd_file_holds_the_layers_that_an_ora_file_holds(model):
    layers = layers_of(model, PictureRecipe(checkpoint=model.name))
    document = PSDImage.open(io.BytesIO(photoshop(layers)))
    wanted = [(name, seen) for name, _, seen in reversed(stack_of(layers))]
    assert [(layer.name, layer.visible) for layer in document] == wanted
    assert document.size == (64, 64)
    again = np.asarray(document.composite().convert("RGB")).astype(int)
    assert np.abs(again - np.asarray(to_pil(layers.image)[0]).astype(int)).max() <= 4
