"""The web page: tabs laid out with Gradio, the live pictures and knobs in them by `page/*.js`."""

import os

os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1")  # before gradio

from demo.files import Files, server_folder

server_folder()  # as this and what follows must be known to Gradio when it is imported

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fastapi
import gradio as gr
from fastapi.exceptions import RequestValidationError
from gradio import themes
from gradio.events import api
from starlette.routing import Mount

from demo.audience import Audience
from demo.connections import configure
from demo.cutouts import Cutouts
from demo.events import Events, friendly
from demo.filming import Filming
from demo.inverting import Inverting
from demo.models import Models
from demo.routes import BusyError, Routes, error_response, invalid_response
from demo.security import LOOPBACK, Guard
from demo.transfer import Transfer
from training.segmentation.contract import Segmenter
from training.segmentation.load import load_segmenter

__all__ = ["configure", "page", "serve"]

TITLE = "Knobs without labels"
SCRIPTS = tuple(sorted(path.stem for path in (Path(__file__).parent / "page").glob("*.js")))
STYLES = '<link rel="stylesheet" href="page/page.css"><link rel="stylesheet" href="page/cutouts.css">'
HEAD = f'{STYLES}<script type="module" src="page/tabs.js"></script>' + "".join(
    f'<link rel="modulepreload" href="page/{name}.js">'
    for name in SCRIPTS  # below the page, wherever that is
)
THEME = themes.Default(  # the bundled semi-bold faces lack most letters: regular and bold only
    primary_hue="indigo",
    neutral_hue="slate",
    font=[themes.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
MOST_SESSIONS = 256
"""Of visitors' choices that Gradio remembers; one takes some kilobytes."""
MOST_UNFETCHED = 4000
"""Sessions whose events have not been fetched, more than Gradio keeps answers of."""
QUEUE_SECONDS = 0.02
"""Between two looks of Gradio's queue for a request: at its own 1 ms an idle server takes a twelfth of a core."""
FILM_NUMBERS = {"frames": 36, "fps": 20, "photos": 5}


class Tab(NamedTuple):
    """One tab of the page."""

    id: str
    title: str
    element: str
    """The custom element that fills it; `page/tabs.js` names its class."""
    shown: Callable[[Models], bool] = lambda models: True
    """Whether the page has it, with the models at hand."""


TABS = [
    Tab("knobs", "Turn the knobs", "knob-studio", lambda models: any(not model.reads_photos for model in models)),
    Tab("mix", "Mix photos", "photo-studio", lambda models: any(model.reads_photos for model in models)),
    Tab("cutouts", "Cut out objects", "cutout-studio"),
]
"""The tabs from left to right; a further one is a line here and a line in `page/tabs.js`."""


def page(models: Models, files: Files | None = None, audience: Audience | None = None) -> gr.Blocks:
    """Return the layout: tabs for the models, which scripts fill, and the functions of the HTTP interface."""
    events = Events(models, files, audience)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        gr.HTML(f"<header class='masthead'><h1>{TITLE}</h1></header>", apply_default_css=False)
        with gr.Tabs():
            for tab in TABS:
                if tab.shown(models):
                    with gr.Tab(tab.title, id=tab.id):
                        gr.HTML(f"<{tab.element}></{tab.element}>", apply_default_css=False)
        for function in (events.models, events.render, events.layers, events.read_photo):
            api(friendly(function), concurrency_limit=4)
        with gr.Column(visible=False):
            _films(events)
    queue = blocks.queue(max_size=64, default_concurrency_limit=2)._queue
    queue.sleep_when_free, queue.progress_update_sleep_when_free = QUEUE_SECONDS, 5 * QUEUE_SECONDS
    return blocks


def _films(events: Events) -> None:
    """Offer films and sheets to clients: each answers one file."""
    recipe, kept_a, kept_b = (gr.Textbox(label=name) for name in ("recipe", "kept_a", "kept_b"))
    story, knob, across, down = (gr.Textbox(label=name) for name in ("story", "knob", "across", "down"))
    frames, fps, photos = (gr.Number(value, label=name) for name, value in FILM_NUMBERS.items())
    width, kind = gr.Textbox("256 pixels", label="width"), gr.Textbox("MP4", label="kind")
    video, made = gr.File(label="video", file_types=["video"]), gr.File(label="made")
    inputs = {
        "film": (events.film, [recipe, kept_a, kept_b, story, knob, frames, fps, width, kind]),
        "grid": (events.grid, [recipe, across, down, photos, width]),
        "follow": (events.follow, [recipe, video, frames, fps, width, kind]),
    }
    for name, (function, given) in inputs.items():
        gr.Button(name).click(friendly(function), given, made, api_name=name)


def serve(
    models: Models,
    *,
    host: str = "127.0.0.1",
    password: str | None = None,
    root_path: str = "",
    finder: Callable[[], Segmenter] = load_segmenter,
) -> fastapi.FastAPI:
    """Return the web application; `root_path` is where a reverse proxy shows it, a path or a whole address.

    `finder` reads what finds objects, once it is needed: the bundled network, or the classical finder without it.

    Raises: ValueError if `host` is open to other machines and there is no password, or `root_path` is neither.
    """
    if host not in LOOPBACK and not password:
        raise ValueError(f"{host} is open to other machines; give --password as well, or leave --host out")
    files, audience = Files(server_folder()), Audience()
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    routes = Routes(models)
    app.include_router(routes.router)
    app.include_router(Inverting(routes).router)
    app.include_router(Filming(models, files).router)
    app.include_router(Transfer(files).router)
    app.include_router(Cutouts(models, files, finder).router)
    for kind in (ValueError, BusyError, Exception):
        app.add_exception_handler(kind, error_response)
    app.add_exception_handler(RequestValidationError, invalid_response)
    blocks = page(models, files, audience)
    blocks.state_session_capacity = MOST_SESSIONS
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=host,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size="10mb",
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=THEME,
        head=HEAD,
    )
    for mounted in app.routes:
        if isinstance(mounted, Mount) and isinstance(mounted.app, fastapi.FastAPI):
            mounted.app.add_exception_handler(RequestValidationError, invalid_response)
    blocks.has_launched = True  # mounting does not set it, and Gradio checks no file's place until then
    app.add_middleware(
        Guard,
        files=files,
        audience=audience,
        password=password,
        hosts=LOOPBACK if host in LOOPBACK else None,  # against DNS rebinding
        root=root_path,
        title=TITLE,
        waiting=lambda: waiting(blocks),
        known=lambda session: session in blocks._queue.pending_messages_per_session,
    )
    return app


def waiting(blocks: gr.Blocks) -> list[tuple[str, int]]:
    """Return the visitor and the bytes of each event that Gradio has yet to finish."""
    queue = blocks._queue
    if (
        len(queue.pending_event_ids_session) > MOST_UNFETCHED
    ):  # Gradio forgets the answers of these, but not their names
        kept = queue.pending_messages_per_session
        for session in [session for session in queue.pending_event_ids_session if session not in kept]:
            del queue.pending_event_ids_session[session]
    events = [event for each in queue.event_queue_per_concurrency_id.values() for event in each.queue]
    events += [event for job in queue.active_jobs for event in job or ()]
    states = [event.request.state for event in events]
    return [(state.visitor.id, state.size) for state in states if hasattr(state, "visitor")]
