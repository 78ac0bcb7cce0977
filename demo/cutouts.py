"""The tab "Cut out objects": photos, films and camera pictures in; outlines, cut-outs, masks and painted films out.

Photos and films lie among their visitor's files; a request names one and is answered from it anew, so nothing else is
kept. The script's side is `page/cutouts.js`.
"""

import asyncio
import base64
import io
import shutil
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import quote

import fastapi
import numpy as np
import PIL.Image
from fastapi import Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field, ValidationError

from demo.examples import Example, sets
from demo.files import Files, Visitor
from demo.filming import ending
from demo.models import Models
from demo.routes import BusyError, visitor_of
from demo.streaming import json_lines
from demo.turns import NOBODY, Turns
from training.data.mask_codes import to_polygons
from training.imaging.video import OF_UPLOADS, probe, read_film
from training.pictures import open_picture
from training.segmentation.contract import Instance, Pixels, Segmenter
from training.segmentation.cutouts import cut, without
from training.segmentation.film import track_film
from training.segmentation.load import finder_name

T = TypeVar("T")

SHOWN = 0.4
"""Score from which an object is shown."""
VIEW = 1280
"""Longer side, in pixels, of the picture that is searched and shown."""
MOST_PIXELS = 4_200_000
"""Of a photo that is cut; larger ones are made smaller. `python -m training segment image` cuts at full size."""
PREVIEW = 480
"""Longer side of the small pictures of what would be saved."""
MOST_CAMERA = 1_000_000
"""Pixels of a picture of the camera."""
MOST_WAITING = 24
"""Pictures that wait for the finder's thread; it takes some 40 ms for each."""
EACH = 3
"""Requests of one visitor that are under way at once."""
MOST_FILMS = 4
"""Films that wait or are being painted; one visitor has one."""
EXAMPLES = 6
"""Photos to try, of each set."""
What = Literal["cutout", "mask", "rest", "white"]
"""The object with transparency, its mask, everything but it, or the object on white."""


class Chosen(BaseModel):
    """A visitor's photo, and which of its objects, by their places in what `find` answered."""

    file: str = Field(max_length=1000)
    objects: list[int] = Field(default=[], max_length=100)


class Desk:
    """One thread that runs the finder for everyone, in turns; what waits for it is bounded."""

    def __init__(self, load: Callable[[], Segmenter]) -> None:
        """Take what reads the segmenter, which happens when it is first needed."""
        self._load, self._segmenter, self._waiting = load, None, 0
        self._turns = Turns("finder")

    async def labels(self, visitor: Visitor = NOBODY) -> tuple[str, ...]:
        """Return the names that objects can have."""
        return await asyncio.wrap_future(self._turns.submit(visitor, lambda: self._ready().labels))

    async def find(self, image: Pixels, visitor: Visitor = NOBODY) -> list[Instance]:
        """Return the objects of a picture. Raises: BusyError if too many wait."""
        if self._waiting >= MOST_WAITING:
            raise BusyError
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self._turns.submit(visitor, self._find, image))
        finally:
            self._waiting -= 1

    def find_now(self, image: Pixels, visitor: Visitor = NOBODY) -> list[Instance]:
        """Return the objects of a picture to another thread, which waits for them."""
        return self._turns.submit(visitor, self._find, image).result()

    def close(self) -> None:
        """Stop the thread; what has not begun is dropped."""
        self._turns.close(patience=1.0)

    def _ready(self) -> Segmenter:
        if self._segmenter is None:
            self._segmenter = self._load()
        return self._segmenter

    def _find(self, image: Pixels) -> list[Instance]:
        return [instance for instance in self._ready()(image) if instance.score >= SHOWN]


class Cutouts:
    """The tab's routes over one registry of visitors' files."""

    def __init__(self, models: Models, files: Files, load: Callable[[], Segmenter]) -> None:
        """Take the models, whose threads open photos, the registry, and what reads the segmenter."""
        self.models, self.files, self.desk = models, files, Desk(load)
        self._threads, self._over = ThreadPoolExecutor(MOST_FILMS, "painting"), threading.Event()
        self._filming, self._films = asyncio.Semaphore(1), set[str]()
        lifespan = ending(self._threads, self._over, self._films)
        self.router = fastapi.APIRouter(prefix="/cutouts", lifespan=lifespan)
        self._busy: Counter[str] = Counter()
        add = self.router.add_api_route
        add("/about", self.about, methods=["GET"])
        add("/examples/{group}/{name}", self.example, methods=["GET"])
        add("/upload", self.upload, methods=["POST"])
        add("/find", self.find, methods=["POST"])
        add("/preview", self.preview, methods=["POST"])
        add("/cut/{what}", self.cut, methods=["POST"])
        add("/frame", self.frame, methods=["POST"])
        add("/film", self.film, methods=["POST"])

    async def about(self, request: Request) -> Response:
        """Answer what finds objects here, the names it knows, and photos to try."""
        shown = [
            {"name": f"{group}/{example.name}", "caption": example.caption} for group, example in _examples().values()
        ]
        told = {"finder": finder_name(), "labels": await self.desk.labels(visitor_of(request)), "examples": shown}
        return JSONResponse(told, headers={"Cache-Control": "no-store"})

    async def example(self, group: str, name: str) -> Response:
        """Answer a photo to try."""
        found = _examples().get(f"{group}/{name}")
        if found is None:
            raise ValueError("there is no such example; choose one that the page shows")
        return FileResponse(found[1].path, headers={"Cache-Control": "max-age=3600"})

    async def upload(self, request: Request, name: str = "") -> Response:
        """Keep the photo or film that is the request's body for its visitor; answer its name among the files."""
        data = await request.body()
        if not data:
            raise ValueError("this file is empty; choose another")
        path = await asyncio.to_thread(self.files.save, visitor_of(request), name, data)
        return JSONResponse({"file": str(path)})

    async def find(self, request: Request) -> Response:
        """Answer a photo's objects: label, score, box (fractions) and outline (pixels of the picture shown)."""
        chosen = await _chosen(request)
        with self._place(request):
            view = _small(await self._opened(request, chosen, VIEW * VIEW), VIEW)
            found = await self.desk.find(np.array(view), visitor_of(request))
        shown = io.BytesIO()
        view.save(shown, "JPEG", quality=88)
        answer = {
            "width": view.width,
            "height": view.height,
            "view": base64.b64encode(shown.getvalue()).decode(),
            "objects": [_described(instance) for instance in found],
        }
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    async def preview(self, request: Request) -> Response:
        """Answer the cut-out, the mask and the rest of the chosen objects as small PNG files in base64."""
        chosen = await _chosen(request)
        with self._place(request):
            photo, instance = await self._union(request, chosen, VIEW * VIEW)

            def job() -> dict[str, str]:
                made = {what: _small(_made(photo, instance, what), PREVIEW) for what in ("cutout", "mask", "rest")}
                return {what: base64.b64encode(_png(picture)).decode() for what, picture in made.items()}

            answer = await self._beside(request, job)
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    async def cut(self, what: str, request: Request) -> Response:
        """Answer one picture of the chosen objects as PNG; its header X-Box says where they are, as fractions."""
        if what not in get_args(What):
            raise ValueError(f"there is no {what[:40]!r} of an object; choose {', '.join(get_args(What))}")
        chosen = await _chosen(request)
        with self._place(request):
            photo, instance = await self._union(request, chosen, MOST_PIXELS)
            data = await self._beside(request, lambda: _png(_made(photo, instance, what)))
        box = ",".join(f"{edge:.5f}" for edge in _fractions(instance))
        name = f"{Path(chosen.file).stem}-{what}.png"
        saved = f"attachment; filename*=UTF-8''{quote(name)}"
        headers = {"Content-Disposition": saved, "X-Box": box, "Cache-Control": "no-store"}
        return Response(data, media_type="image/png", headers=headers)

    async def frame(self, request: Request) -> Response:
        """Answer the objects of one picture of a camera, a small JPEG, and how long that took here."""
        data = await request.body()
        with self._place(request):
            start = time.perf_counter()
            opened = await self._beside(
                request, lambda: open_picture(data, name="this picture", max_pixels=MOST_CAMERA)
            )
            found = await self.desk.find(np.array(opened), visitor_of(request))
        answer = {
            "width": opened.width,
            "height": opened.height,
            "objects": [_described(instance) for instance in found],
            "milliseconds": round(1000 * (time.perf_counter() - start), 1),
        }
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    async def film(self, request: Request) -> Response:
        """Answer line by line, as JSON, how many frames are painted, and at last the film's place among the files."""
        chosen = await _chosen(request)
        visitor, source = visitor_of(request), self._file(request, chosen)
        if visitor.id in self._films:
            raise ValueError("a film of yours is being made; wait until it is done, or stop it")
        if len(self._films) >= MOST_FILMS:
            raise BusyError
        self._films.add(visitor.id)
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, probe, source, OF_UPLOADS)
        except BaseException:
            self._films.discard(visitor.id)
            raise
        return json_lines(self._painting(visitor, source), "a film")

    async def _painting(self, visitor: Visitor, source: Path) -> AsyncGenerator[dict[str, Any], None]:
        """Paint a film in a thread and yield how far it is; closing this ends the film."""
        stop, done, job = threading.Event(), [0], None
        try:
            yield {"frames": 0, "most": OF_UPLOADS.max_frames}
            async with self._filming:
                loop = asyncio.get_running_loop()
                job = loop.run_in_executor(self._threads, self._paint, visitor, source, stop, done)
                while not job.done():
                    await asyncio.wait([job], timeout=0.25)
                    yield {"frames": done[0], "most": OF_UPLOADS.max_frames}
                made = job.result()
            named = {"file": made["out"], "name": Path(made["out"]).name, "identities": made["identities"]}
            yield {"frames": made["frames"], "most": OF_UPLOADS.max_frames, **named}
        finally:
            stop.set()
            if job is not None:
                job.cancel()  # what has not begun; what has ends by itself
            self._films.discard(visitor.id)

    def _paint(self, visitor: Visitor, source: Path, stop: threading.Event, done: list[int]) -> dict[str, Any]:
        """Write a film with its objects painted, which becomes its visitor's unless it was stopped.

        Each frame waits for the finder's thread like anyone's picture.
        """

        def go_on() -> None:
            if stop.is_set() or self._over.is_set():
                raise ValueError("this film was stopped")

        def keep(found: list[Instance]) -> list[Instance]:
            go_on()
            done[0] += 1
            return found

        def find(image: Pixels) -> list[Instance]:
            return self.desk.find_now(image, visitor)

        target = self.files.place(f"{source.stem}-objects.mp4")
        try:
            made = track_film(find, source, target, keep=keep, read=lambda path: read_film(path, OF_UPLOADS))
            go_on()
            self.files.own(visitor, target)
            return made
        except BaseException:
            shutil.rmtree(target.parent, ignore_errors=True)
            raise

    @contextmanager
    def _place(self, request: Request) -> Iterator[None]:
        """Count a request while it is under way. Raises: BusyError if the visitor has too many."""
        visitor = visitor_of(request).id
        if self._busy[visitor] >= EACH:
            raise BusyError
        self._busy[visitor] += 1
        try:
            yield
        finally:
            self._busy[visitor] -= 1
            self._busy += Counter()  # forgets those with none

    def _file(self, request: Request, chosen: Chosen) -> Path:
        """Return the file that a request names. Raises: ValueError if it is not the visitor's."""
        found = self.files.may(visitor_of(request), chosen.file)
        if found is None or not found.is_file():
            raise ValueError("this file was not sent by you, or is gone by now; choose it again")
        return found

    async def _opened(self, request: Request, chosen: Chosen, pixels: int) -> PIL.Image.Image:
        """Return the photo that a request names, of about so many pixels at most."""
        path = self._file(request, chosen)
        return await self._beside(request, lambda: open_picture(path.read_bytes(), name=path.name, keep_pixels=pixels))

    async def _beside(self, request: Request, job: Callable[[], T]) -> T:
        """Run a job in the visitor's turn on the threads that open photos."""
        return await asyncio.wrap_future(self.models.open(job, visitor=visitor_of(request)))

    async def _union(self, request: Request, chosen: Chosen, pixels: int) -> tuple[Pixels, Instance]:
        """Return a photo, and the chosen objects as one."""
        photo = await self._opened(request, chosen, pixels)
        found = await self.desk.find(np.array(_small(photo, VIEW)), visitor_of(request))
        places = sorted(set(chosen.objects))
        if not places or places[0] < 0 or places[-1] >= len(found):
            raise ValueError(f"none of the photo's {len(found)} objects is chosen; choose one or more of them")
        return np.array(photo), united([found[place] for place in places], photo.size)


def united(instances: Sequence[Instance], size: tuple[int, int]) -> Instance:
    """Return several objects as one, in a photo of width and height `size`, which may be larger than their masks."""
    mask = np.maximum.reduce([instance.mask for instance in instances])
    x, y = size[0] / mask.shape[1], size[1] / mask.shape[0]
    boxes = np.array([instance.box for instance in instances])
    x0, y0, x1, y1 = (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))
    if mask.shape != size[::-1]:
        mask = np.array(PIL.Image.fromarray(mask).resize(size, PIL.Image.Resampling.BILINEAR)).clip(0, 1)
    best = max(instances, key=lambda instance: instance.score)
    return Instance(mask, (float(x0 * x), float(y0 * y), float(x1 * x), float(y1 * y)), best.label, best.score)


def _made(photo: Pixels, instance: Instance, what: str) -> PIL.Image.Image:
    """Return what is to be saved of an object."""
    found = cut(photo, instance)
    if what == "cutout":
        return PIL.Image.fromarray(found.rgba)
    if what == "mask":
        return PIL.Image.fromarray(found.mask)
    if what == "rest":
        soft = Instance(found.mask.astype(np.float32) / 255, instance.box, instance.label, instance.score)
        return PIL.Image.fromarray(without(photo, [soft]))
    white, object_ = PIL.Image.new("RGB", photo.shape[1::-1], "white"), PIL.Image.fromarray(found.rgba)
    white.paste(object_, found.corner, object_)
    return white


def _described(instance: Instance) -> dict[str, Any]:
    """Return an object as the page takes it."""
    outline = to_polygons(instance.binary, 1.0)
    return {
        "label": instance.label,
        "score": round(instance.score, 3),
        "box": [round(edge, 5) for edge in _fractions(instance)],
        "outline": [[round(float(edge), 1) for edge in polygon] for polygon in outline],
    }


def _fractions(instance: Instance) -> tuple[float, float, float, float]:
    """Return an object's box as fractions of its picture."""
    (x0, y0, x1, y1), (height, width) = instance.box, instance.mask.shape
    return x0 / width, y0 / height, x1 / width, y1 / height


def _small(picture: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """Return a picture whose longer side is at most `side`."""
    if max(picture.size) <= side:
        return picture
    small = picture.copy()
    small.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
    return small


def _png(picture: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=3)
    return file.getvalue()


async def _chosen(request: Request) -> Chosen:
    """Return what a request's body chooses. Raises: ValueError if it is no such thing."""
    try:
        return Chosen.model_validate_json(await request.body())
    except ValidationError as error:
        raise ValueError("this request names no file and objects; reload the page") from error


def _examples() -> dict[str, tuple[str, Example]]:
    """Return photos to try, by set and name."""
    return {
        f"{group}/{example.name}": (group, example)
        for group, examples in sets().items()
        for example in examples[:: max(1, len(examples) // EXAMPLES)][:EXAMPLES]
    }
