"""Files between visitors and the server, by the addresses that Gradio's page and client use for them.

These stand before Gradio's own routes, which hand out by path, name uploads after what is in them, and leave half of an
upload behind when it breaks off.
"""

import asyncio
import mimetypes
from pathlib import Path

import fastapi
from fastapi import Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from demo.files import Files

SHOWN = ("image/png", "image/webp", "image/gif", "video/mp4", "video/webm")
"""Kinds of files that a browser may show in place; others are only saved."""
MOST_FILES = 4


class Transfer:
    """The routes over one registry of files."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.router = fastapi.APIRouter(prefix="/gradio_api")
        self.router.add_api_route("/upload", self.upload, methods=["POST"])
        self.router.add_api_route("/upload_progress", self.progress, methods=["GET"])
        self.router.add_api_route("/file={path:path}", self.file, methods=["GET", "HEAD"])

    async def upload(self, request: Request) -> Response:
        """Keep the files of a form for the visitor who sent them; answer their paths."""
        try:
            async with request.form(max_files=MOST_FILES, max_fields=MOST_FILES) as form:
                sent = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
                found = [(file.filename or "", await file.read()) for file in sent]
        except MultiPartException as error:
            raise ValueError(f"this is not a form with at most {MOST_FILES} files") from error
        if not found:
            raise ValueError("no file came; send a form with a file named files")
        visitor = request.state.visitor
        return JSONResponse([str(await asyncio.to_thread(self.files.save, visitor, *each)) for each in found])

    async def progress(self) -> Response:
        """Answer that an upload is done: at most 10 MB need no bar."""
        return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")

    async def file(self, path: str, request: Request) -> Response:
        """Answer a visitor's own file."""
        found = self.files.may(request.state.visitor, path)
        if found is None or not found.is_file():
            return JSONResponse({"message": "There is no such file of yours."}, 403)
        kind = mimetypes.guess_type(Path(found).name)[0]
        inline = kind in SHOWN
        return FileResponse(
            found,
            media_type=kind if inline else "application/octet-stream",
            filename=found.name,
            content_disposition_type="inline" if inline else "attachment",
            headers={"Cache-Control": "private, no-store"},
        )
