"""The one guard in front of every route: who may ask, what, how much of it, and on whose behalf.

It refuses other web sites' requests, routes that the page does not use, bodies that are too large or too slow, wrong
passwords, and files of others; it says to Gradio at which address the page is seen.
"""

import asyncio
import re
import secrets
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo.audience import Audience, Ending, until_ended
from demo.connections import network
from demo.files import Files, Visitor
from demo.intake import Intake, RefusedError
from demo.payloads import ForeignFileError, checked, private_query
from demo.throttle import Throttle
from demo.uploads import MAX_BYTES

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
LOOPBACK = ("localhost", "127.0.0.1", "::1")
COOKIE = "knobs_visitor"
TOKEN = re.compile(r"[0-9a-f]{32}")
PREFIX = re.compile(r"(/[\w.~-]+)+")
MOST_EVENTS = 6
"""Events of one visitor that Gradio has yet to finish."""
MOST_ANONYMOUS = 24
"""Of one address whose visitors send no cookie."""
MOST_BYTES = 64_000_000
"""Of all waiting events together."""
NOTHING, JSON_BYTES, SHORT = 0, 14_000_000, 20_000
"""Bytes: a photo of 10 MB in base64 is the largest value of an event."""
LONG_JSON = 1_000_000
"""Bytes of JSON from which on others are answered while it is checked."""
EVENT, SIMPLE, SESSION, STREAM, CALL_STREAM, PLAIN = "event", "simple", "session", "stream", "call stream", "plain"


@dataclass(frozen=True, slots=True)
class Rule:
    """A route that visitors may use."""

    methods: str
    path: re.Pattern[str]
    limit: int = NOTHING
    kind: str = PLAIN


def _rule(methods: str, path: str, limit: int = NOTHING, kind: str = PLAIN) -> Rule:
    return Rule(methods, re.compile(path), limit, kind)


RULES = (
    _rule("GET HEAD", "/"),
    _rule("GET", "/live/models"),
    _rule("GET", "/live/examples/[^/]+/[^/]+"),
    _rule("GET", "/page/[^/]+"),
    _rule("POST", "/live/(picture|drag|file/[^/]+)", 6_000_000),  # these say in their own words what is too large
    _rule("POST", "/live/(photo|recipe|invert)", MAX_BYTES + 1_000_000),
    _rule("POST", "/live/film", 14_000_000),  # recipes of a whole tray
    _rule("GET", "/live/seeds/[^/]+/[^/]+"),
    _rule("GET", "/cutouts/(about|examples/[^/]+/[^/]+)"),
    _rule("POST", "/cutouts/(find|preview|cut/[^/]+|film)", SHORT),
    _rule("POST", "/cutouts/frame", 400_000),
    _rule("POST", "/cutouts/upload", MAX_BYTES + 1_000_000),
    _rule("GET HEAD", "/(assets|static)/.+"),
    _rule("GET", "/(theme.css|favicon.ico|robots.txt|manifest.json|config|gradio_api/info)/?"),
    _rule("POST", "/gradio_api/upload", 10_100_000),
    _rule("GET", "/gradio_api/upload_progress"),
    _rule("GET HEAD", "/gradio_api/file=.+"),
    _rule("POST", "/gradio_api/(queue/join|run/predict)", JSON_BYTES, EVENT),
    _rule("POST", "/gradio_api/call/[^/]+", JSON_BYTES, SIMPLE),
    _rule("POST", "/gradio_api/(cancel|reset)/?", SHORT, SESSION),
    _rule("GET", "/gradio_api/queue/data", kind=STREAM),
    _rule("GET", "/gradio_api/call/[^/]+/[^/]+", kind=CALL_STREAM),
)
"""Everything else is answered with 404, whatever else Gradio mounts."""


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        files: Files,
        audience: Audience,
        password: str | None = None,
        hosts: tuple[str, ...] | None = None,
        root: str = "",
        title: str = "",
        waiting: Callable[[], list[tuple[str, int]]] = list,
        known: Callable[[str], bool] = bool,
    ) -> None:
        """`hosts`: the names of this server, None for any; `root`: a path, or the whole address of the page.

        `waiting` gives visitor and bytes of each event that Gradio has yet to finish, `known` whether it has
        anything to tell to a session.
        """
        self.app, self.files, self.audience, self.waiting, self.known = app, files, audience, waiting, known
        self.password, self.title = password, title
        self.root = root_of(root)
        self.public = urlsplit(root) if "://" in root else None
        self.hosts = None if hosts is None else {*hosts, *([self.public.hostname] if self.public else [])}
        self.intake, self.throttle = Intake(), Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        prefix = self.root or _forwarded_prefix(headers)
        visitor, cookie = self._visitor(scope, headers, prefix)
        send = _sealed(send, cookie)
        body = None
        try:
            path = _below(scope["path"], prefix)
            self._check_host(headers)
            self._check_origin(headers, scope, path)
            self._check_password(headers, visitor, cookie is not None)
            rule = _rule_of(scope["method"], path)
            scope = self._located(scope, headers, prefix, path, visitor, rule)
            if rule.limit:
                length = headers.get("content-length", "")
                body = await self.intake.read(visitor, receive, rule.limit, int(length) if length.isdigit() else None)
                check = partial(self._checked_body, body.data, rule, visitor)
                data = await asyncio.to_thread(check) if body.size > LONG_JSON and rule.kind != PLAIN else check()
                body.data = b""
                scope["state"]["size"] = len(data)
                receive = _replay(data, receive)
            elif headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
                raise RefusedError(413, "This request takes no body; send none.")
            if rule.kind in (STREAM, CALL_STREAM):
                await self._stream(scope, receive, send, rule, visitor)
            else:
                await self.app(scope, receive, send)
        except RefusedError as refused:
            answer = {"message": str(refused), "detail": str(refused)}
            await JSONResponse(answer, refused.status, refused.headers)(scope, receive, send)
        finally:
            if body is not None:
                self.intake.leave(body)

    def _visitor(self, scope: Scope, headers: Headers, prefix: str) -> tuple[Visitor, str | None]:
        """Return who asks, and the cookie to set: a browser that opens the page without one gets it."""
        host, port = scope.get("client") or ("", 0)
        address = network(host)
        token = _token(headers)
        cookie = None
        if token is None and _below(scope["path"], prefix) == "/":
            token = secrets.token_hex(16)
            secure = "; Secure" if self._scheme(scope, headers) == "https" else ""
            cookie = f"{COOKIE}={token}; Path={prefix}/; HttpOnly; SameSite=Lax{secure}"
        if token is None:
            return Visitor(f"address {address}", address, anonymous=True, connection=f"{host} {port}"), None
        return Visitor(token, address, connection=token), cookie

    def _check_host(self, headers: Headers) -> None:
        """Refuse names of this machine that are not ours: a web site may have made one point here."""
        if self.hosts is not None and _name(headers.get("host", "")) not in self.hosts:
            raise RefusedError(400, "This server does not go by that name; open it by localhost or its address.")

    def _check_origin(self, headers: Headers, scope: Scope, path: str) -> None:
        """Refuse what another web site made a browser ask; following a link to the page itself is no such thing."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        foreign = site in ("cross-site", "same-site")
        if foreign and not (opened and scope["method"] == "GET" and path == "/" and origin is None):
            raise RefusedError(403, "Other web sites may not use this server.")
        if origin is None or (self.root and site == "same-origin"):  # some proxies keep the public name to themselves
            return
        ours = [headers.get("host", ""), _first(headers.get("x-forwarded-host"))]
        ours += [self.public.netloc] if self.public else []
        if not origin.startswith(("http://", "https://")) or _host(origin) not in [
            _host(name) for name in ours if name
        ]:
            raise RefusedError(403, "Other web sites may not use this server.")

    def _check_password(self, headers: Headers, visitor: Visitor, fresh: bool) -> None:
        """Refuse who does not give the password; who guesses waits."""
        if self.password is None:
            return
        ask = {"WWW-Authenticate": f'Basic realm="{self.title}", charset="UTF-8"'}
        header = headers.get("authorization")
        if header is None:
            raise RefusedError(401, "A password is needed.", ask)
        seconds = self.throttle.wait(visitor.address, visitor.id)
        if seconds > 0:
            raise RefusedError(429, "Too many wrong passwords; please wait.", {"Retry-After": str(int(seconds) + 1)})
        if not _holds(header, self.password):
            self.throttle.wrong(visitor.address)
            raise RefusedError(401, "A password is needed.", ask)
        if not visitor.anonymous:
            self.throttle.right(visitor.id)

    def _located(self, scope: Scope, headers: Headers, prefix: str, path: str, visitor: Visitor, rule: Rule) -> Scope:
        """Return a scope for Gradio that says where the page is seen, and to ours who sees it."""
        if self.public:
            address = f"{self.public.scheme}://{self.public.netloc}{prefix}"
        else:
            host = _first(headers.get("x-forwarded-host")) or headers.get("host", "")
            address = f"{self._scheme(scope, headers)}://{host}{prefix}"
        spoken = (b"x-gradio-server", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-prefix")
        if rule.kind in (EVENT, SIMPLE, SESSION):  # what is checked as JSON is read as JSON
            spoken = (*spoken, b"content-type")
            extra = [(b"content-type", b"application/json")]
        else:
            extra = []
        kept = [(name, value) for name, value in scope["headers"] if name not in spoken]
        query = scope["query_string"]
        return {
            **scope,
            "headers": [*kept, *extra, (b"x-gradio-server", address.encode("latin-1"))],
            "path": prefix + path,
            "raw_path": None,
            "root_path": prefix,
            "query_string": private_query(visitor, query) if b"session_hash" in query else query,
            "state": {**scope.get("state", {}), "visitor": visitor, "size": 0},
        }

    def _scheme(self, scope: Scope, headers: Headers) -> str:
        if self.public:
            return self.public.scheme
        forwarded = _first(headers.get("x-forwarded-proto"))
        return forwarded if forwarded in ("http", "https") else scope.get("scheme", "http")

    def _checked_body(self, data: bytes, rule: Rule, visitor: Visitor) -> bytes:
        """Return a body as it is passed on. Raises: RefusedError."""
        if rule.kind not in (EVENT, SIMPLE, SESSION):
            return data
        if rule.kind in (EVENT, SIMPLE):
            self._check_waiting(visitor, len(data))
        try:
            return checked(data, visitor, self.files, simple=rule.kind == SIMPLE)
        except ForeignFileError as error:
            raise RefusedError(403, "This file was not sent by you; please choose it again.") from error
        except ValueError as error:
            raise RefusedError(422, f"{str(error)[:1].upper()}{str(error)[1:]}.") from error

    def _check_waiting(self, visitor: Visitor, size: int) -> None:
        """Refuse an event while many of this visitor's, or many bytes of anyone's, wait."""
        waiting = self.waiting()
        own = sum(who == visitor.id for who, _ in waiting)
        if own >= (MOST_ANONYMOUS if visitor.anonymous else MOST_EVENTS):
            raise RefusedError(429, "You have much under way already; please wait.", {"Retry-After": "2"})
        if sum(bytes_ for _, bytes_ in waiting) + size > MOST_BYTES:
            raise RefusedError(503, "Many people are here just now; please try again.", {"Retry-After": "2"})

    async def _stream(self, scope: Scope, receive: Receive, send: Send, rule: Rule, visitor: Visitor) -> None:
        """Pass on a stream of events, until it ends or is ended."""
        if rule.kind == STREAM:
            key = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[-1]
        else:
            key = scope["path"].rpartition("/")[2]
        if not self.known(key):
            raise RefusedError(404, "There is nothing to tell.")
        stream, ending = self.audience.join(key, visitor), Ending(send)
        try:
            await self.app(scope, until_ended(stream, receive), ending)
        finally:
            self.audience.leave(stream)
        if stream.ended.is_set():
            await ending.end()


def root_of(given: str) -> str:
    """Return the path below which the page is seen, "" for none, of a path or a whole address.

    Raises: ValueError for anything else.
    """
    path = urlsplit(given).path if re.match(r"https?://[^/]", given) else given
    path = path.rstrip("/")
    if path and not PREFIX.fullmatch(path):
        raise ValueError(f"--root-path {given[:80]!r} is no path; give one as /knobs, or https://example.org/knobs")
    return path


def _forwarded_prefix(headers: Headers) -> str:
    """Return the path that a reverse proxy says it took off, "" for none; other web sites cannot make a browser lie."""
    prefix = headers.get("x-forwarded-prefix", "").rstrip("/")
    return prefix if PREFIX.fullmatch(prefix) else ""


def _below(path: str, prefix: str) -> str:
    """Return a path without the prefix, which some proxies take off and some do not."""
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        return path[len(prefix) :] or "/"
    return path


def _rule_of(method: str, path: str) -> Rule:
    """Return the rule for a request; RefusedError if there is none."""
    for rule in RULES:
        if method in rule.methods.split() and rule.path.fullmatch(path):
            return rule
    raise RefusedError(404, "There is nothing here.")


def _first(value: str | None) -> str:
    return (value or "").partition(",")[0].strip()


def _name(host: str) -> str:
    """Return the name in a Host header, without port and brackets, "" for none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _host(origin: str) -> tuple[str, int | None]:
    """Return name and port of an origin or a Host header; ports that the name implies are None."""
    try:
        parts = urlsplit(origin if "://" in origin else f"//{origin}")
        port = parts.port
    except ValueError:
        return origin, -1
    return parts.hostname or origin, None if port in (80, 443) else port


def _token(headers: Headers) -> str | None:
    """Return the visitor's token in the cookies, if there is one."""
    for pair in headers.get("cookie", "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE and TOKEN.fullmatch(value):
            return value
    return None


def _holds(header: str, password: str) -> bool:
    """Return whether an Authorization header holds the password; the name before it may be any."""
    kind, _, code = header.partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        _, _, given = b64decode(code).decode().partition(":")
    except (Base64Error, ValueError):
        return False
    return secrets.compare_digest(given.encode(), password.encode())


def _sealed(send: Send, cookie: str | None) -> Send:
    """Return a `send` that tells browsers to keep to this server, and sets a visitor's cookie."""

    async def sealed(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [
                (b"content-security-policy", POLICY.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
            ]
            if cookie is not None:
                more += [(b"set-cookie", cookie.encode()), (b"cache-control", b"private, no-cache")]
            message["headers"] = [*message.get("headers", []), *more]
        await send(message)

    return sealed


def _replay(data: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body at once, then what comes after it."""
    left = [data]

    async def replay() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replay
