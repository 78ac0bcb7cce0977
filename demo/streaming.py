"""Answers that come line by line, each a JSON object, while the work is under way."""

import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from demo.routes import sentence

log = logging.getLogger(__name__)


def json_lines(steps: AsyncGenerator[dict[str, Any], None], what: str) -> StreamingResponse:
    """Return an answer with one line of JSON for each step.

    An error becomes the last line, {"error": sentence}, because the status has been sent by then: the message of a
    ValueError is shown; any other is logged as "`what` failed". `steps` is closed when the client leaves.
    """
    headers = {"Cache-Control": "no-store"}
    return StreamingResponse(_written(steps, what), media_type="application/x-ndjson", headers=headers)


async def _written(steps: AsyncGenerator[dict[str, Any], None], what: str) -> AsyncIterator[str]:
    async with contextlib.aclosing(steps):
        try:
            async for step in steps:
                yield _line(step)
        except ValueError as error:
            yield _line({"error": sentence(error)})
        except Exception as error:
            log.error("%s failed", what, exc_info=error)
            yield _line({"error": "Something went wrong here; please try again."})


def _line(step: dict[str, Any]) -> str:
    return json.dumps(step) + "\n"
