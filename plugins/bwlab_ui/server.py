"""The server of the page: its files, and the requests that it sends."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from bwlab.errors import BwlabError, first_line
from bwlab.text import parse_json
from bwlab_ui.mixer import SUFFIX, Mixer
from bwlab_ui.security import Access, Guard
from bwlab_ui.session import Session
from bwlab_ui.settings import AdapterScales, ImageSettings, checked
from bwlab_ui.turns import Cancelled
from bwlab_ui.uploads import safe_name
from bwlab_ui.work import error_document

SCRIPTS = ("mixer", "api", "state", "blocks", "images", "jobs", "exports", "login")
PAGE = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/login": ("login.html", "text/html"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in SCRIPTS},
}
"""The files of the page by their addresses; nothing else on the disk has one."""
MOST_JSON = 2**20
CHUNK = 2**20
AFTER_A_WRONG_PASSWORD = 1.0  # seconds until the answer


def build_app(mixer: Mixer, access: Access) -> Guard:
    """Return the application of a mixer, which answers only those who may use it."""
    server = _Server(mixer, access)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(mixer.close)

    session = "/api/sessions/{id}"
    routes = [
        *(Route(path, server.page, methods=["GET"]) for path in PAGE),
        Route("/login", server.login, methods=["POST"]),
        Route("/api/sessions", server.new_session, methods=["POST"]),
        Route(session, server.state, methods=["GET"]),
        Route(f"{session}/running", server.running, methods=["GET"]),
        Route(f"{session}/base", server.base, methods=["POST"]),
        Route(f"{session}/roles", server.roles, methods=["POST"]),
        Route(f"{session}/open", server.open, methods=["POST"]),
        Route(f"{session}/upload", server.upload, methods=["POST"]),
        Route(f"{session}/adapters/{{place:int}}", server.close, methods=["DELETE"]),
        Route(f"{session}/adapters/{{place:int}}/file", server.export, methods=["GET"]),
        Route(f"{session}/images/{{kind}}", server.image, methods=["POST"]),
        Route(f"{session}/images/{{kind}}", server.cancel_image, methods=["DELETE"]),
        Route(f"{session}/jobs/{{kind}}", server.start_job, methods=["POST"]),
        Route(f"{session}/jobs/{{kind}}", server.job, methods=["GET"]),
        Route(f"{session}/jobs/{{kind}}", server.cancel_job, methods=["DELETE"]),
        Route(f"{session}/exports", server.exports, methods=["GET"]),
    ]
    handlers: Any = {BwlabError: _as_error, Cancelled: _as_cancelled, HTTPException: _as_http_error, Exception: _defect}
    return Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan), access)


def _answer(error: BwlabError, status: int) -> JSONResponse:
    return JSONResponse({"error": error_document(error)}, status)


async def _as_error(_: Request, error: BwlabError) -> Response:
    return _answer(error, 400)


async def _as_cancelled(_: Request, __: Cancelled) -> Response:
    return JSONResponse({"cancelled": True}, 409)


async def _as_http_error(request: Request, error: HTTPException) -> Response:
    return _answer(BwlabError(request.url.path[:200], error.detail, "Reload the page"), error.status_code)


async def _defect(request: Request, error: Exception) -> Response:
    found = f"{type(error).__name__}: {first_line(error)}"
    fix = "This is a defect of bwlab; the terminal of bwlab ui shows where"
    return _answer(BwlabError(request.url.path[:200], found, fix), 500)


class _Server:
    def __init__(self, mixer: Mixer, access: Access) -> None:
        self.mixer, self.access = mixer, access
        self._files = {path: (_asset(name), kind) for path, (name, kind) in PAGE.items()}

    async def page(self, request: Request) -> Response:
        content, kind = self._files[request.url.path]
        return Response(content, media_type=kind)

    async def login(self, request: Request) -> Response:
        given = (await _json(request)).get("password")
        password = self.access.password
        if password is None:
            return RedirectResponse("/", 303)
        if not isinstance(given, str) or not await run_in_threadpool(password.matches, given[:1000]):
            await asyncio.sleep(AFTER_A_WRONG_PASSWORD)
            return _answer(BwlabError("logging in", "the password is wrong", "Try again"), 401)
        answer = JSONResponse({"ok": True})
        answer.set_cookie(self.access.cookie, password.new_cookie(), httponly=True, samesite="strict", path="/")
        return answer

    async def new_session(self, request: Request) -> Response:
        like = (await _json(request)).get("like")
        session = self.mixer.new_session(like if isinstance(like, str) else None)
        return await self._document(session)

    async def state(self, request: Request) -> Response:
        return await self._document(self._session(request))

    async def running(self, request: Request) -> Response:
        return JSONResponse(self._session(request).running())

    async def base(self, request: Request) -> Response:
        session, given = self._session(request), await _json(request)
        await run_in_threadpool(self.mixer.choose_base, session, str(given.get("base")))
        return await self._document(session)

    async def roles(self, request: Request) -> Response:
        session, given = self._session(request), await _json(request)
        places = [given.get(role) for role in ("identity", "style")]
        if not all(isinstance(place, int) and 0 <= place < len(session.files) for place in places):
            raise BwlabError("the roles of the adapters", f"{places} are no adapters", "Reload the page")
        session.identity, session.style = (int(place) for place in places if place is not None)
        return await self._document(session)

    async def open(self, request: Request) -> Response:
        session, given = self._session(request), await _json(request)
        await run_in_threadpool(self.mixer.open, session, str(given.get("name")))
        return await self._document(session)

    async def upload(self, request: Request) -> Response:
        session = self._session(request)
        name = safe_name(request.query_params.get("name", ""))
        if not name.endswith(SUFFIX):
            fix = f"Upload a {SUFFIX} file; bwlab convert makes one of other adapters"
            raise BwlabError(f"uploading {name}", f"it is no {SUFFIX} file", fix)
        with self.mixer.uploads.receiving(name) as target:
            await self._receive(request, target)
            await run_in_threadpool(self.mixer.add, session, target)
        return await self._document(session)

    async def _receive(self, request: Request, target: Path) -> None:
        most, size = self.mixer.offer.most_upload, 0
        with target.open("xb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    fix = "Start bwlab ui with a larger --max-upload, or give the file on the command line"
                    raise BwlabError(f"uploading {target.name}", f"it is larger than {most / 2**20:.0f} MB", fix)
                await run_in_threadpool(file.write, chunk)

    async def close(self, request: Request) -> Response:
        session = self._session(request)
        self.mixer.close_adapter(session, request.path_params["place"])
        return await self._document(session)

    async def export(self, request: Request) -> Response:
        session = self._session(request)
        file = await run_in_threadpool(self.mixer.export, session, request.path_params["place"])
        clear = BackgroundTask(shutil.rmtree, file.parent, ignore_errors=True)
        return FileResponse(file, filename=file.name, media_type="application/octet-stream", background=clear)

    async def image(self, request: Request) -> Response:
        session, given = self._session(request), await _json(request)
        number = given.get("number")
        if not isinstance(number, int):
            raise BwlabError("an image", "the request has no number", "Reload the page")
        scales = given.get("scales")
        if not isinstance(scales, list):
            raise BwlabError("an image", "the request has no scales", "Reload the page")
        settings = checked(ImageSettings, given.get("settings"), "the settings")
        sliders = [checked(AdapterScales, scale, "the sliders") for scale in scales]
        kind = request.path_params["kind"]
        made = await run_in_threadpool(self.mixer.image, session, kind, number, settings, sliders)
        return Response(made, media_type="image/png")

    async def cancel_image(self, request: Request) -> Response:
        newest = self._session(request).images.get(request.path_params["kind"])
        if newest is not None:
            newest.cancel()
        return JSONResponse({})

    async def start_job(self, request: Request) -> Response:
        session, given = self._session(request), await _json(request)
        budget = given.get("budget", 0)
        if not isinstance(budget, int) or not 0 <= budget <= 100_000:
            raise BwlabError("the budget of the search", "it is no whole number up to 100,000", "Give one")
        job = await run_in_threadpool(self.mixer.start, session, request.path_params["kind"], budget)
        return JSONResponse(job.document())

    async def job(self, request: Request) -> Response:
        return JSONResponse(self._job(request))

    async def cancel_job(self, request: Request) -> Response:
        job = self._session(request).jobs.get(request.path_params["kind"])
        if job is not None:
            job.cancel()
        return JSONResponse(self._job(request))

    def _job(self, request: Request) -> dict[str, Any] | None:
        job = self._session(request).jobs.get(request.path_params["kind"])
        return None if job is None else job.document()

    async def exports(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.mixer.exports, self._session(request)))

    def _session(self, request: Request) -> Session:
        return self.mixer.sessions.get(request.path_params["id"])

    async def _document(self, session: Session) -> Response:
        return JSONResponse(await run_in_threadpool(self.mixer.document, session))


def _asset(name: str) -> bytes:
    return (files("bwlab_ui") / "page" / name).read_bytes()


async def _json(request: Request) -> dict[str, Any]:
    """Return the object that a request holds; `BwlabError` for anything else."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_JSON:
            raise BwlabError("this request", "it is too large", "Reload the page")
    try:
        value = parse_json(body)
    except ValueError as error:
        raise BwlabError("this request", f"it is no JSON: {first_line(error)}", "Reload the page") from error
    if not isinstance(value, dict):
        raise BwlabError("this request", "it is no JSON object", "Reload the page")
    return value
