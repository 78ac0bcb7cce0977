"""Commands that find objects: cut-outs in four forms, films with identities, reports; hostile inputs answered in one
sentence."""

import gc
import json
import subprocess
import threading
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest

from tests.odd_files import BAD, GOOD, as_file, gradient
from tests.places import CHECKPOINTS
from training.__main__ import main
from training.checkpoint import save_generator
from training.data.coco import CocoSet, CocoWriter
from training.imaging.video import FilmError, probe, read_film
from training.pictures import open_picture
from training.segmentation.classical import ClassicalSegmenter
from training.segmentation.contract import Instance, Segmenter
from training.segmentation.cutouts import cut, own_colours, refined, without, write_cutouts
from training.segmentation.film import StagedSegmenter, cut_out_on, instances_of, painted, track_film
from training.segmentation.load import load_segmenter
from training.segmentation.tracking import Tracked
from training.segmentation.yolact.config import NetworkConfig
from training.segmentation.yolact.network import Yolact


def picture(x: float = 75, y: float = 50, size: tuple[int, int] = (150, 100)) -> np.ndarray:
    """Return a red disc of radius 25 on a grey, slightly noisy ground."""
    rng = np.random.default_rng(0)
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    pixels = 130 + rng.integers(-5, 6, (size[1], size[0], 3))
    pixels[np.hypot(columns - x, rows - y) < 25] = (200, 40, 30)
    return pixels.astype(np.uint8)


def disc(x: float = 75, y: float = 50, size: tuple[int, int] = (150, 100), r: float = 25) -> np.ndarray:
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return (r + 0.5 - np.hypot(columns - x, rows - y)).clip(0, 1).astype(np.float32)


def found(x: float = 75, y: float = 50) -> Instance:
    return Instance(disc(x, y), (x - 25.0, y - 25.0, x + 26.0, y + 26.0), "ball", 0.9)


class Red:
    """Finds what is red; in stages, so that films run it in threads."""

    labels = ("ball",)

    def __call__(self, image: np.ndarray) -> list[Instance]:
        return self.finish(self.predict(self.prepare(image)))

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return image.astype(np.int16)

    def predict(self, prepared: np.ndarray) -> np.ndarray:
        return prepared[..., 0] - prepared[..., 1] > 80

    def finish(self, predicted: np.ndarray) -> list[Instance]:
        if predicted.sum() < 20:
            return []
        rows, columns = np.flatnonzero(predicted.any(1)), np.flatnonzero(predicted.any(0))
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        return [Instance(predicted.astype(np.float32), box, "ball", 0.9)]


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Return a film of 24 frames, 150 x 100, of a disc that moves to the right."""
    path = tmp_path_factory.mktemp("film") / "ball.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", "150x100", "-r", "12", "-i", "-", "-c:v", "libx264", "-crf", "12", "-pix_fmt", "yuv420p"]
    frames = b"".join(picture(30 + 4 * t).tobytes() for t in range(24))
    subprocess.run([*command, str(path)], input=frames, check=True)
    return path


def code_of(arguments: list[str]) -> int:
    """Return a command's exit status; options that cannot be end it before it runs."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def said(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_classical_finder_keeps_the_contract():
    finder = ClassicalSegmenter()
    assert isinstance(finder, Segmenter)
    [instance] = finder(picture())
    assert instance.mask.shape == (100, 150) and instance.mask.dtype == np.float32
    assert instance.mask.min() >= 0 and instance.mask.max() <= 1
    true = disc() > 0.5
    assert (instance.binary & true).sum() / (instance.binary | true).sum() > 0.85
    assert instance.box == pytest.approx((50, 25, 100, 75), abs=4)
    assert finder(np.full((100, 150, 3), 90, np.uint8)) == []
    for size in ((1, 1), (1, 500), (3, 3), (16, 16)):
        assert finder(np.zeros((*size, 3), np.uint8)) == []


def test_a_cut_out_has_its_own_colours_at_a_soft_edge():
    image = picture()
    blurred = np.asarray(PIL.Image.fromarray(image).resize((75, 50)).resize((150, 100)))
    result = cut(blurred, found(), refine=False)
    alpha = result.rgba[..., 3]
    soft = (alpha > 0) & (alpha < 240)
    assert soft.sum() > 50
    assert (result.rgba[soft][:, 0].astype(int) - result.rgba[soft][:, 1] > 100).all()  # red to the very edge
    assert result.mask.shape == (100, 150)
    assert abs(int((result.mask > 127).sum()) - int((disc() > 0.5).sum())) < 60
    x, y = result.corner
    window = result.mask[y : y + alpha.shape[0], x : x + alpha.shape[1]]
    assert (window == alpha).all()


def test_a_coarse_mask_follows_the_photos_edge():
    coarse = np.asarray(
        PIL.Image.fromarray(disc(r=22)).resize((15, 10)).resize((150, 100), PIL.Image.Resampling.BILINEAR)
    )
    true = disc() > 0.5

    def iou(mask: np.ndarray) -> float:
        return ((mask > 0.5) & true).sum() / ((mask > 0.5) | true).sum()

    better = refined(picture(), coarse.astype(np.float32), 6)
    assert iou(better) > iou(coarse) + 0.03
    flat = np.full((100, 150, 3), 90, np.uint8)
    assert np.abs(refined(flat, np.zeros((100, 150), np.float32), 3)).max() == 0
    assert (own_colours(flat, np.zeros((100, 150), np.float32)) == flat).all()


def test_everything_but_the_object():
    rest = without(picture(), [found()])
    assert rest[50, 75, 3] == 0 and rest[5, 5, 3] == 255


def test_all_four_forms_from_one_call(tmp_path):
    files = write_cutouts(picture(), [found(), found(120, 60)], tmp_path, "photo", refine=False)
    assert {len(files[kind]) for kind in ("cutouts", "masks")} == {2}
    for names in files.values():
        assert all((tmp_path / name).is_file() for name in names)
    with PIL.Image.open(tmp_path / "photo-1-ball.png") as cutout:
        assert cutout.mode == "RGBA"
    polygons = json.loads((tmp_path / "photo-polygons.json").read_text())
    assert polygons["objects"][0]["label"] == "ball"
    assert "<path" in (tmp_path / "photo-outlines.svg").read_text()
    PIL.Image.fromarray(picture()).save(tmp_path / "photo.jpg")
    again = CocoSet(tmp_path / "photo-coco.json").load(0)
    with PIL.Image.open(tmp_path / "photo-1-ball-mask.png") as mask:
        assert (again.masks[0] == (np.asarray(mask) > 127)).all()


def test_labels_cannot_lead_out_of_the_folder(tmp_path):
    strange = Instance(disc(), (50.0, 25.0, 100.0, 75.0), "../../etc/<b>&", 0.9)
    write_cutouts(picture(), [strange], tmp_path / "out", "photo", refine=False)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"]
    assert "<b>" not in (tmp_path / "out" / "photo-outlines.svg").read_text()


def test_image_command(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    PIL.Image.fromarray(picture()).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert main(["segment", "image", str(folder), "--out", str(out), "--model", "classical"]) == 0
    first, second = said(capsys)
    assert first["objects"][0]["label"] == "object"
    assert (out / first["files"]["cutouts"][0]).is_file()
    assert "not a picture" in second["error"]


@pytest.mark.parametrize("name", BAD)
def test_photos_that_cannot_be_used_are_said(name, tmp_path, capsys):
    path = tmp_path / "photo.png"
    path.write_bytes(BAD[name])
    if name == "30.5 MB":
        path.write_bytes(b"\xff\xd8" + b"\0" * 200)
    assert main(["segment", "image", str(path), "--out", str(tmp_path / "out"), "--model", "classical"]) == 2
    captured = capsys.readouterr()
    assert "error" in json.loads(captured.out)
    assert captured.err.splitlines()[-1].startswith("error: none of the photos")


@pytest.mark.parametrize("name", [n for n in GOOD if n not in ("16 megapixels", "50 megapixels")])
def test_odd_photos_are_segmented(name, tmp_path, capsys):
    path = tmp_path / "photo.png"
    path.write_bytes(GOOD[name])
    assert main(["segment", "image", str(path), "--out", str(tmp_path / "out"), "--model", "classical"]) == 0
    with PIL.Image.open(tmp_path / "out" / "photo-rest.png") as rest:
        assert rest.size == open_picture(path).size


GENERATOR = str(CHECKPOINTS / "giraffe-hd-cars-64.safetensors")
WRONG = {
    "no such photo": (["image", "none.png"], "none of the photos"),
    "empty folder": (["image", "."], "has no photos"),
    "unknown label": (["image", "a.png", "--labels", "horse", "--model", "classical"], "unknown label 'horse'"),
    "score over 1": (["image", "a.png", "--least", "2"], "expected 0 to 1"),
    "weights of others": (["image", "a.png", "--model", "yolact_base_54_800000.pth"], "import-official"),
    "no such model": (["image", "a.png", "--model", "none.safetensors"], "no checkpoint"),
    "no model": (["image", "a.png", "--model", "a.png"], "safetensors"),
    "no ONNX": (["image", "a.png", "--model", "a.onnx"], "no network exported"),
    "no film": (["video", "a.png.txt"], "does not exist"),
    "text as film": (["video", "text.mp4"], "no film"),
    "photo as list": (["video", "list.m3u8"], "no film"),
    "generator as finder": (["image", "a.png", "--model", GENERATOR], "finds no objects"),
    "generator to export": (["export", GENERATOR], "FILE.onnx"),
    "corrupt set": (["evaluate", "classical", "--data", "corrupt"], "is not JSON, or cut short"),
    "mask of another size": (["evaluate", "classical", "--data", "other"], "annotation 1"),
    "no pictures": (["evaluate", "classical", "--data", "none"], "no pictures"),
    "unknown part": (["evaluate", "classical", "--data", "other", "--split", "test"], "no split 'test'"),
    "negative limit": (["evaluate", "classical", "--data", "other", "--limit", "-1"], "no negative numbers"),
    "no colour": (["video", "out.mp4", "--ground", "300", "-20", "0"], "--ground is 300 -20 0; expected three numbers"),
    "film over itself": (["video", "out.mp4"], "is the film itself"),
    "no set": (["evaluate", "classical", "--data", "."], "no split"),
    "no group": (["evaluate", "classical", "--data", ".", "--group", "cat"], "NAME=LABEL"),
    "export of nothing": (["export", "none.safetensors"], "FILE.onnx"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_answered_in_one_sentence(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("hello, I am no film")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    entry["segmentation"] = {"size": [7, 9], "counts": [63]}
    listed = [{"id": 1, "file_name": "a.png", "width": 96, "height": 64}]
    categories = [{"id": 1, "name": "cat"}]
    sets = {
        "corrupt": "{",
        "other": json.dumps({"images": listed, "annotations": [entry], "categories": categories}),
        "none": json.dumps({"images": [], "annotations": [], "categories": categories}),
    }
    for folder, text in sets.items():
        (tmp_path / folder / "images").mkdir(parents=True)
        (tmp_path / folder / "images" / "a.png").write_bytes(as_file(gradient()))
        (tmp_path / folder / "validation.json").write_text(text)
    (tmp_path / "out.mp4").write_text("hello")
    arguments, words = WRONG[name]
    if name != "empty folder":  # `.`, in which it looks for photos
        (tmp_path / "a.png").write_bytes(as_file(gradient()))
        (tmp_path / "a.onnx").write_bytes(b"no network")
    out = "out.mp4" if arguments[0] == "video" else "out"
    assert code_of(["segment", *arguments, "--out", out]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_films_are_read_as_they_are(film):
    about = probe(film)
    assert (about.width, about.height, about.fps) == (150, 100, 12.0)
    frames = list(read_film(film))
    assert len(frames) == 24
    assert frames[0][50, 30, 0] > 150 > frames[0][50, 30, 1]
    assert frames[23][50, 30 + 4 * 23, 0] > 150


@pytest.mark.parametrize("staged", [True, False])
def test_pipeline_keeps_the_order_and_passes_errors_on(film, staged):
    red = Red()
    segmenter = red if staged else ClassicalSegmenter()
    assert isinstance(segmenter, StagedSegmenter) == staged
    centres = []
    for frame, instances in instances_of(segmenter, read_film(film)):
        assert frame.shape == (100, 150, 3)
        centres += [(i.box[0] + i.box[2]) / 2 for i in instances[:1]]
    assert centres[:20] == pytest.approx([30 + 4 * t for t in range(20)], abs=4)

    def broken():
        yield from list(read_film(film))[:3]
        raise FilmError("the tape is torn")

    seen = 0
    with pytest.raises(FilmError, match="torn"):
        for _ in instances_of(segmenter, broken()):
            seen += 1
    assert seen == 3


def test_a_pipeline_left_early_ends_its_threads(film):
    before = threading.active_count()
    for _ in instances_of(Red(), read_film(film)):
        break
    gc.collect()
    for _ in range(50):
        if threading.active_count() <= before:
            break
        threading.Event().wait(0.1)
    assert threading.active_count() <= before


def test_a_tracked_film_is_whole_and_says_who_is_who(film, tmp_path):
    result = track_film(Red(), film, tmp_path / "out.mp4")
    assert result["frames"] == 24
    assert result["identities"] == {"1": "ball"}
    assert probe(tmp_path / "out.mp4").width == 150
    assert len(list(read_film(tmp_path / "out.mp4"))) == 24
    frames = json.loads((tmp_path / "out.json").read_text())["frames"]
    assert [entry["objects"][0]["id"] for entry in frames[1:]] == [1] * 23


def test_odd_sides_and_single_colours(tmp_path):
    path = tmp_path / "odd.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "lavfi", "-i"]
    subprocess.run([*command, "color=red:size=33x17:rate=5:duration=1", "-pix_fmt", "yuv444p", str(path)], check=True)
    result = track_film(Red(), path, tmp_path / "out.mp4", paint=cut_out_on((0, 255, 0)))
    assert result["frames"] == 5
    assert probe(tmp_path / "out.mp4").width == 34


def test_objects_are_painted_inside_the_frame():
    frame = np.zeros((100, 150, 3), np.uint8)
    shown = painted(frame, [Tracked(1, "ball", found(148, 98)), Tracked(2, "ball", found())])
    assert shown.shape == frame.shape
    assert shown[50, 75].max() > 60 and shown[5, 5].max() == 0


def test_evaluate_writes_one_report(tmp_path, capsys):
    (tmp_path / "set" / "images").mkdir(parents=True)
    writer = CocoWriter(["ball", "cube"])
    for k in range(4):
        PIL.Image.fromarray(picture(50 + 10 * k)).save(tmp_path / "set" / "images" / f"{k}.png")
        writer.add(writer.add_image(f"{k}.png", 150, 100), "ball", disc(50 + 10 * k) > 0.5)
    writer.write(tmp_path / "set" / "validation.json")
    arguments = ["classical", "--data", str(tmp_path / "set"), "--out", str(tmp_path / "report"), "--one-class"]
    assert main(["segment", "evaluate", *arguments, "--bootstrap", "10", "--worst", "2"]) == 0
    [line] = said(capsys)
    assert line["mask"]["ap50"] > 0.99 and line["best_mask_iou"] > 0.85
    assert line["mask"]["interval"][0] <= line["mask"]["ap"] <= line["mask"]["interval"][1]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["models"]["classical"]["pictures"] == 4
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<figure>") == 2 and "data:image/jpeg" in page
    assert page.count("http") == 0  # needs nothing else


def test_segmenters_by_name(tmp_path):
    assert isinstance(load_segmenter("classical"), ClassicalSegmenter)
    network = Yolact(
        NetworkConfig(
            classes=("ball", "cube"), backbone="mobilenetv2-same", size=64, scales=(16.0, 24.0, 32.0, 48.0),
            pyramid_dim=16, protonet_dim=16, n_prototypes=8, letterbox=True,
        )
    )  # fmt: skip
    save_generator(tmp_path / "finder.safetensors", network)
    finder = load_segmenter(tmp_path / "finder.safetensors", settings="published")
    assert isinstance(finder, StagedSegmenter) and finder.labels == ("ball", "cube")
    found = finder(picture())
    in_stages = finder.finish(finder.predict(finder.prepare(picture())))
    assert len(found) == len(in_stages)
    for one, other in zip(found, in_stages, strict=True):
        assert one.mask.shape == (100, 150)
        assert (one.mask == other.mask).all() and one.score == other.score
    scores = [instance.score for instance in found]
    assert scores == sorted(scores, reverse=True)


def test_films_draw_masks_that_exceed_their_boxes():
    mask = np.zeros((600, 600), np.float32)
    mask[80:520, 80:520] = 1
    item = Tracked(1, "ball", Instance(mask, (100.0, 100.0, 500.0, 500.0), "ball", 0.9))
    shown = cut_out_on((0, 0, 0))(np.full((600, 600, 3), 255, np.uint8), [item])
    assert (shown[..., 0] == 255 * mask).all()
