"""The web page: two tabs laid out with Gradio, the live pictures and knobs in them by `page/*.js`."""

import os

os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1")  # before gradio

import secrets
from base64 import b64decode
from binascii import Error as Base64Error
from typing import Any

import fastapi
import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .live import Busy, Live, say
from .shelf import Shelf

TITLE = "Knobs without labels"
HEAD = '<link rel="stylesheet" href="/page/page.css"><script type="module" src="/page/main.js"></script>'
THEME = gr.themes.Default(  # the bundled semi-bold faces lack most letters: regular and bold only
    primary_hue="indigo",
    neutral_hue="slate",
    font=[gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
POLICY = "; ".join(  # no request leaves this server, whatever a component would like
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "frame-ancestors 'self'",
    )
)
LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


def page(shelf: Shelf) -> gr.Blocks:
    """Return the layout for a shelf of generators."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 1800)) as blocks:
        gr.HTML(f"<header class='masthead'><h1>{TITLE}</h1></header>", apply_default_css=False)
        with gr.Tabs():
            if any(not model.reads_photos for model in shelf):
                with gr.Tab("Turn the knobs", id="knobs"):
                    gr.HTML("<knob-studio></knob-studio>", apply_default_css=False)
            if any(model.reads_photos for model in shelf):
                with gr.Tab("Mix photos", id="mix"):
                    gr.HTML("<photo-studio></photo-studio>", apply_default_css=False)
    return blocks.queue(max_size=64)


def serve(shelf: Shelf, *, host: str = "127.0.0.1", password: str | None = None) -> fastapi.FastAPI:
    """Return the web application.

    Raises: ValueError if `host` is open to other machines and there is no password.
    """
    if host not in LOOPBACK and not password:
        raise ValueError(f"{host} is open to other machines; give --password as well, or leave --host out")
    live = Live(shelf)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(live.router)
    for kind in (ValueError, Busy, Exception):
        app.add_exception_handler(kind, say)
    gr.mount_gradio_app(
        app,
        page(shelf),
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
    app.add_middleware(Guard, password=password)
    if host in LOOPBACK:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))  # against DNS rebinding
    return app


class Guard:
    """Asks for the password, if there is one, and tells browsers to keep to this server."""

    def __init__(self, app: ASGIApp, password: str | None) -> None:
        self.app = app
        self.password = password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.password is not None and not self._known(Headers(scope=scope).get("authorization", "")):
            ask = {"WWW-Authenticate": f'Basic realm="{TITLE}", charset="UTF-8"'}
            await PlainTextResponse("A password is needed.", 401, ask)(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, guarded)

    def _known(self, header: str) -> bool:
        """Whether an Authorization header holds the password; the name before it may be any."""
        kind, _, code = header.partition(" ")
        if kind.lower() != "basic" or self.password is None:
            return False
        try:
            _, _, given = b64decode(code).decode().partition(":")
        except (Base64Error, UnicodeDecodeError):
            return False
        return secrets.compare_digest(given.encode(), self.password.encode())


def configure(**settings: Any) -> dict[str, Any]:
    """Return settings for uvicorn: quiet, and strangers' slow connections closed."""
    return {"log_level": "warning", "timeout_keep_alive": 30, **settings}
