"""What comes in to Gradio's events as JSON: bounded, with no file but the visitor's own, in the visitor's own session.

Gradio copies any file that a value names into its cache, from where it can be fetched; a value may be nested anywhere.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from demo.files import Files, Visitor

MOST_PARTS = 20_000
"""Brackets, commas and colons of a JSON text; four photos and three recipes have some hundreds."""
PIECE = 65_536
"""Bytes or characters of a text in which its parts are counted at a time."""
FILE_ROUTE = "/gradio_api/file="


class ForeignFileError(Exception):
    """A value names a file that the visitor has not sent."""


def private(visitor: Visitor, session: str) -> str:
    """Return the name of a visitor's session on this server: another visitor who knows the first gets another."""
    return hashlib.sha256(json.dumps([visitor.id, session]).encode()).hexdigest()[:40]


def private_query(visitor: Visitor, query: bytes) -> bytes:
    """Return a query whose `session_hash` is the visitor's own."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return urlencode([(k, private(visitor, v) if k == "session_hash" else v) for k, v in pairs]).encode()


def has_too_many_parts(text: bytes | str) -> bool:
    """Return whether a JSON text has more than MOST_PARTS parts; what follows them is not looked at."""
    found = 0
    for start in range(0, len(text), PIECE):
        piece = text[start : start + PIECE]
        data = piece if isinstance(piece, bytes) else piece.encode("utf-8", "surrogatepass")
        found += len(data) - len(data.translate(None, b"[{,:"))
        if found > MOST_PARTS:
            return True
    return False


def checked(data: bytes, visitor: Visitor, files: Files, *, simple: bool) -> bytes:
    """Return a JSON body for Gradio, its session made the visitor's own.

    With `simple`, of `call/NAME`, the event is a session of its own.
    Raises: ValueError for what is no JSON object, or has too many parts; ForeignFileError.
    """
    if has_too_many_parts(data):
        raise ValueError("this request has too many parts; send less at once")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("this request is not JSON; send an object") from error
    if not isinstance(body, dict):
        raise ValueError("this request is not a JSON object; send one")
    given = body.pop("session_hash", None)
    session = given if isinstance(given, str) else ""
    for value in _objects(body):
        _check(value, visitor, files, private(visitor, session))
    if not isinstance(body.get("data", []), list):
        raise ValueError("this request's data is not a list; send one")
    if given is not None and not simple:
        body["session_hash"] = private(visitor, session)
    try:
        return json.dumps(body).encode()
    except RecursionError as error:
        raise ValueError("this request is nested too deeply; send it flat") from error


def _objects(body: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a JSON value."""
    left = [body]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield value
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def _check(value: dict[str, Any], visitor: Visitor, files: Files, session: str) -> None:
    """Raise ForeignFileError if an object names a file that is not the visitor's."""
    meta = value.get("meta")
    marked = isinstance(meta, dict) and "_type" in meta
    path = value.get("path")
    if not marked and path is None:
        return
    if not isinstance(path, str) or files.may(visitor, path, session) is None:
        raise ForeignFileError
    url = value.get("url")
    if url is not None and not (isinstance(url, str) and unquote(url).endswith(FILE_ROUTE + path)):
        raise ForeignFileError
