"""The web page: three tabs laid out with Gradio, the live pictures and knobs in them by `page/*.js`."""

import os

os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1")  # before gradio

from demo.files import Files, server_folder

server_folder()  # as this and what follows must be known to Gradio when it is imported

from collections.abc import Callable, Sequence
from typing import Any

import fastapi
import gradio as gr
from fastapi.exceptions import RequestValidationError
from gradio import themes
from gradio.events import api
from starlette.routing import Mount

from demo.audience import Audience
from demo.connections import configure
from demo.cutouts import Cutouts
from demo.describe import about, slot_label
from demo.events import A_TO_B, AROUND, MAX_PHOTOS, NOTHING, ONE_KNOB, Events, friendly
from demo.films import MAX_FRAMES
from demo.knobs import turnable
from demo.models import Model, Models
from demo.routes import BusyError, Routes, error_response, invalid_response
from demo.security import LOOPBACK, Guard
from demo.transfer import Transfer
from training.segmentation.contract import Segmenter
from training.segmentation.load import load_segmenter

__all__ = ["configure", "page", "serve"]

TITLE = "Knobs without labels"
SCRIPTS = (
    "tabs",
    "knobs",
    "photos",
    "studio",
    "stage",
    "live",
    "history",
    "crop",
    "camera",
    "dom",
    "icons",
    "cutouts",
    "viewfinder",
)
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
WIDTHS = ["As it is", "256 pixels", "512 pixels"]


def page(models: Models, files: Files | None = None, audience: Audience | None = None) -> gr.Blocks:
    """Return the layout for the generators."""
    events = Events(models, files, audience)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        gr.HTML(f"<header class='masthead'><h1>{TITLE}</h1></header>", apply_default_css=False)
        with gr.Tabs():
            turned = [model for model in models if not model.reads_photos]
            mixed = [model for model in models if model.reads_photos]
            if turned:
                with gr.Tab("Turn the knobs", id="knobs"):
                    _knobs_tab(events, turned)
            if mixed:
                with gr.Tab("Mix photos", id="mix"):
                    _mix_tab(events, mixed)
            with gr.Tab("Cut out objects", id="cutouts"):
                gr.HTML("<cutout-studio></cutout-studio>", apply_default_css=False)
        for function in (events.models, events.render, events.layers, events.read_photo):
            api(friendly(function), concurrency_limit=4)
    return blocks.queue(max_size=64, default_concurrency_limit=2)


def _knobs_tab(events: Events, models: Sequence[Model]) -> None:
    """Lay out the tab of the models with numbers and seeds."""
    gr.HTML("<knob-studio></knob-studio>", apply_default_css=False)
    with gr.Accordion("Make a film", open=False, elem_classes="fold-panel"), gr.Row():
        with gr.Column(scale=3):
            with gr.Row():
                story = gr.Radio([ONE_KNOB, AROUND, A_TO_B], value=ONE_KNOB, label="What happens")
                knob = gr.Dropdown(_knob_choices(models[0]), label="Knob", filterable=False)
            frames, fps, kind, width = _film_settings(["MP4", "WebP", "GIF", "Filmstrip"])
            make, stop = _buttons("Make the film")
        video, picture = _results()
    making = make.click(
        friendly(events.film),
        [*_recipes("recipe", "kept_a", "kept_b"), story, knob, frames, fps, width, kind],
        [video, picture],
        js=_with_recipes("knobStudio", 3),
        api_name="film",
        show_progress_on=[picture],
    )
    stop.click(None, cancels=[making])
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    story.change(lambda chosen: gr.update(visible=chosen == ONE_KNOB), story, knob, **quiet)
    card = _card(models[0])
    _follow_model("knob-studio", models, lambda model: (gr.update(**_choices(model)), about(model)), [knob, card])


def _mix_tab(events: Events, models: Sequence[Model]) -> None:
    """Lay out the tab of the models that read photos."""
    gr.HTML("<photo-studio></photo-studio>", apply_default_css=False)
    slots = [(slot_label(knob), knob.name) for knob in models[0].generator.knobs if knob.kind == "picture"]
    with gr.Accordion("Make a sheet of mixes", open=False, elem_classes="fold-panel"), gr.Row():
        with gr.Column(scale=3):
            across = gr.Radio(slots, value=slots[-1][1], label="Along a row, change")
            down = gr.Radio([(NOTHING, NOTHING), *slots], value=slots[0][1], label="From row to row, change")
            with gr.Row():
                photos = gr.Slider(2, MAX_PHOTOS, 5, step=1, label="Example photos")
                sheet_width = gr.Radio(WIDTHS, value=WIDTHS[0], label="Width of a picture")
            make, stop = _buttons("Make the sheet")
        video, picture = _results()
    making = make.click(
        friendly(events.grid),
        [*_recipes("recipe"), across, down, photos, sheet_width],
        [video, picture],
        js=_with_recipes("photoStudio", 1),
        api_name="grid",
        show_progress_on=[picture],
    )
    stop.click(None, cancels=[making])
    with gr.Accordion("Follow a video", open=False, elem_classes="fold-panel"), gr.Row():
        with gr.Column(scale=3):
            source = gr.File(label="A video, at most 10 MB", file_types=["video"], height=120)
            frames, fps, kind, width = _film_settings(["MP4", "WebP", "GIF", "Filmstrip"])
            make, stop = _buttons("Make the film")
        video, picture = _results()
    following = make.click(
        friendly(events.follow),
        [*_recipes("recipe"), source, frames, fps, width, kind],
        [video, picture],
        js=_with_recipes("photoStudio", 1),
        api_name="follow",
        show_progress_on=[picture],
    )
    stop.click(None, cancels=[following])
    card = _card(models[0])
    _follow_model("photo-studio", models, lambda model: (about(model),), [card])


def _recipes(*names: str) -> list[gr.Textbox]:
    """Return inputs for recipes as JSON text; the page's script fills them in as an event begins."""
    return [gr.Textbox(label=name, visible=False) for name in names]


def _film_settings(kinds: list[str]) -> tuple[gr.Slider, gr.Slider, gr.Radio, gr.Radio]:
    with gr.Row():
        frames = gr.Slider(4, MAX_FRAMES, 36, step=1, label="Pictures")
        fps = gr.Slider(5, 30, 20, step=1, label="Pictures a second")
    with gr.Row():
        kind = gr.Radio(kinds, value=kinds[0], label="File")
        width = gr.Radio(WIDTHS, value=WIDTHS[1], label="Width of a picture")
    return frames, fps, kind, width


def _buttons(text: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        return gr.Button(text, variant="primary"), gr.Button("Stop", scale=0, min_width=96)


def _results() -> tuple[gr.Video, gr.Image]:
    """Return where a film or a sheet appears; the empty picture also holds the progress bar."""
    with gr.Column(scale=2):
        video = gr.Video(label="Film", visible=False, autoplay=True, loop=True, buttons=["download"], height=300)
        picture = gr.Image(
            label="Result", type="filepath", interactive=False, buttons=["download", "fullscreen"], height=300
        )
    return video, picture


def _card(model: Model) -> gr.HTML:
    with gr.Accordion("About this checkpoint", open=False, elem_classes="fold-panel"):
        return gr.HTML(about(model), apply_default_css=False)


def _follow_model(
    element: str, models: Sequence[Model], updates: Callable[[Model], tuple[Any, ...]], outputs: list[Any]
) -> None:
    """Update components when another model is chosen in a studio."""
    named = {model.name: model for model in models}
    listen = f"""
        const tell = (name) => {{ if (props.value !== name) {{ props.value = name; trigger("change"); }} }};
        document.addEventListener("model", (event) => {{
          if (event.target.localName === "{element}") tell(event.detail);
        }});"""
    bridge = gr.HTML(models[0].name, html_template="", js_on_load=listen, visible="hidden", apply_default_css=False)
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    bridge.change(lambda name: updates(named.get(name, models[0])), bridge, outputs, **quiet)


def _knob_choices(model: Model) -> list[tuple[str, str]]:
    return [(knob.label, knob.name) for knob in turnable(model.generator)]


def _choices(model: Model) -> dict[str, Any]:
    choices = _knob_choices(model)
    return {"choices": choices, "value": choices[0][1] if choices else None}


def _with_recipes(studio: str, count: int) -> str:
    """Return a script that puts a studio's recipe, and its A and B, before an event's other inputs."""
    return f"(...given) => [...window.{studio}.recipes().slice(0, {count}), ...given.slice({count})]"


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
    app.include_router(Routes(models).router)
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
