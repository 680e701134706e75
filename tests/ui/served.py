"""A mixer that a test serves: on a real port for a browser, or without one for single requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from bwlab.plugins.manager import build_manager
from bwlab_ui.mixer import Mixer, Offer
from bwlab_ui.run import listening
from bwlab_ui.security import Access, Password
from bwlab_ui.server import build_app

HOST, PORT = "127.0.0.1", 8765
OURS = {"origin": f"http://{HOST}:{PORT}"}
"""The header that a browser sends for our own page."""
FAST = {"prompt": "fox", "seed": 1, "steps": 2, "cfg": 1.0}


@contextmanager
def mixing(offer: Offer) -> Iterator[Mixer]:
    """Yield a mixer, and close it afterwards."""
    mixer = Mixer(offer, build_manager(), "cpu")
    try:
        yield mixer
    finally:
        mixer.close()


def client_of(mixer: Mixer, password: str | None = None, host: str = HOST, **headers: str) -> TestClient:
    """Return a client of a mixer's server, which sends the headers of our own page or others in their place."""
    access = Access(host, PORT, None if password is None else Password.of(password))
    given = {**OURS, **headers}
    return TestClient(build_app(mixer, access), base_url=f"http://{HOST}:{PORT}", headers=given, follow_redirects=False)


@contextmanager
def served(mixer: Mixer, password: str | None = None) -> Iterator[str]:
    """Serve a mixer on a free port, and yield the address of its page."""
    with listening(HOST, 0) as listener:
        port = int(listener.getsockname()[1])
        access = Access(HOST, port, None if password is None else Password.of(password))
        server = uvicorn.Server(uvicorn.Config(build_app(mixer, access), log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://{HOST}:{port}/"
        finally:
            server.should_exit = True
            thread.join()


def body(number: int, *whole: float, **settings: object) -> dict[str, Any]:
    """Return a request for an image, with a scale for each adapter."""
    scales = [{"whole": scale} for scale in whole]
    return {"number": number, "settings": {**FAST, **settings}, "scales": scales}


def finished(client: TestClient, session: str, kind: str, seconds: float = 120) -> dict[str, Any]:
    """Return a job once it is no longer at work."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job: dict[str, Any] = client.get(f"/api/sessions/{session}/jobs/{kind}").json()
        if job["state"] not in ("waiting", "running"):
            return job
        time.sleep(0.02)
    raise AssertionError(f"the job {kind} is still at work")


def opened(client: TestClient) -> dict[str, Any]:
    """Return a new session."""
    answer = client.post("/api/sessions", json={})
    assert answer.status_code == 200, answer.text
    state: dict[str, Any] = answer.json()
    return state


def offered(tiny: Path, files: tuple[Path, ...], **more: Any) -> Offer:
    """Return an offer of the tiny base with some adapters open."""
    return Offer((str(tiny),), files, **more)
