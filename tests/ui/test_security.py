"""Who may use the server, and what it never hands out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from bwlab.errors import BwlabError
from bwlab_ui import server
from bwlab_ui.mixer import Mixer
from bwlab_ui.run import Options, address_of, listening, offer_of, password_of
from bwlab_ui.security import Access, Password
from bwlab_ui.server import PAGE
from bwlab_ui.uploads import safe_name
from tests.ui.served import HOST, OURS, PORT, body, client_of, opened

SECRET = "correct horse"


def options(**given: object) -> Options:
    """Return the options of a call, the usual ones where none are given."""
    usual: dict[str, object] = {
        "adapters": (),
        "base": "emoji",
        "folder": None,
        "data": (),
        "clip": None,
        "device": "cpu",
        "host": HOST,
        "port": 0,
        "password_file": None,
        "most_upload": 1,
        "open_page": False,
    }
    return Options(**{**usual, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (f"{HOST}:{PORT}", 200),
        (f"localhost:{PORT}", 200),
        (f"[::1]:{PORT}", 200),
        ("evil.example", 421),
        (f"evil.example:{PORT}", 421),
        (f"192.168.0.9:{PORT}", 421),
        (f"{HOST}:1", 421),
        ("", 421),
    ],
)
def test_only_requests_for_our_host_are_answered(mixer: Mixer, host: str, status: int) -> None:
    """A name that another site had rebound to this machine would arrive with that site's name as host."""
    assert client_of(mixer, origin=f"http://{host}").get("/", headers={"host": host}).status_code == status


@pytest.mark.parametrize(("host", "status"), [("192.168.0.9", 200), ("studio", 200), ("evil.example", 421)])
def test_a_server_for_others_takes_its_name_and_addresses(mixer: Mixer, host: str, status: int) -> None:
    access = Access("studio", PORT, Password.of(SECRET))
    refused = access.refused("GET", "/login", [(b"host", f"{host}:{PORT}".encode())])
    assert (200 if refused is None else refused[0]) == status


@pytest.mark.parametrize("origin", ["http://evil.example", "null", f"https://{HOST}:{PORT}", f"http://{HOST}:1"])
def test_another_site_changes_nothing(mixer: Mixer, origin: str) -> None:
    answer = client_of(mixer, origin=origin).post("/api/sessions", json={})
    assert answer.status_code == 403
    assert "another site" in answer.json()["error"]["found"]


def test_a_request_without_an_origin_changes_nothing(mixer: Mixer) -> None:
    client = client_of(mixer)
    del client.headers["origin"]
    assert client.post("/api/sessions", json={}).status_code == 403
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_shows_nothing_of_ours(mixer: Mixer, site: str) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    assert client.get(f"/api/sessions/{session}", headers={"sec-fetch-site": site}).status_code == 403
    assert client.get(f"/api/sessions/{session}", headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_every_answer_forbids_frames_other_scripts_and_copies(mixer: Mixer) -> None:
    client = client_of(mixer)
    for answer in (client.get("/"), client.get("/nothing"), client.get("/", headers={"host": "evil.example"})):
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_a_defect_is_one_line_and_says_nothing_to_others(mixer: Mixer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nought")

    client = client_of(mixer)
    client = TestClient(client.app, str(client.base_url), raise_server_exceptions=False, headers=OURS)
    session = opened(client)["id"]
    monkeypatch.setattr(mixer, "exports", broken)
    answer = client.get(f"/api/sessions/{session}/exports")
    assert (answer.status_code, answer.json()["error"]["found"]) == (500, "ZeroDivisionError: by nought")
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_the_page_loads_nothing_from_elsewhere(mixer: Mixer) -> None:
    client = client_of(mixer)
    for path in PAGE:
        text = client.get(path).text
        assert "http://" not in text
        assert "https://" not in text
        assert 'style="' not in text


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/..%2f..%2fpyproject.toml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page/../run.py",
        "/run.py",
        "//etc/passwd",
        "/style.css/../../run.py",
        "/api/sessions/..%2f..%2fetc",
    ],
)
def test_no_file_has_an_address_of_its_own(mixer: Mixer, path: str) -> None:
    answer = client_of(mixer).get(path)
    assert answer.status_code in (400, 404)
    assert "root:" not in answer.text
    assert "def " not in answer.text


def test_only_files_of_the_folder_are_opened(mixer: Mixer, folder: Path, tmp_path: Path) -> None:
    client = client_of(mixer)
    session = opened(client)
    assert session["folder"] == ["fox.safetensors", "ink.safetensors", "words.safetensors"]
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes((folder / "fox.safetensors").read_bytes())
    link = folder / "link.safetensors"
    link.symlink_to(secret)
    try:
        names = (str(secret), f"../{tmp_path.name}/secret.safetensors", "link.safetensors", "", ".", "/etc/passwd")
        for name in names:
            answer = client.post(f"/api/sessions/{session['id']}/open", json={"name": name})
            assert answer.status_code == 400
            assert "the folder does not list it" in answer.json()["error"]["found"]
    finally:
        link.unlink()
    assert len(client.get(f"/api/sessions/{session['id']}").json()["adapters"]) == 2


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../a.safetensors", "a.safetensors"),
        ("C:\\loras\\a.safetensors", "a.safetensors"),
        ("<img src=x>.safetensors", "_img src_x_.safetensors"),
        ("..safetensors", "safetensors"),
        ("a\x00\x1b[2J.safetensors", "a__[2J.safetensors"),
        ("x" * 400 + ".safetensors", "x" * 108 + ".safetensors"),
        ("", "adapter"),
    ],
)
def test_names_of_uploads_are_cleaned(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def upload(client: TestClient, session: str, name: str, content: bytes) -> tuple[int, str]:
    """Upload a file, and return the status and what went wrong."""
    answer = client.post(f"/api/sessions/{session}/upload", params={"name": name}, content=content)
    return answer.status_code, answer.json().get("error", {}).get("found", "")


def uploaded(mixer: Mixer) -> list[str]:
    """Return the names of the files in the server's own folder."""
    return sorted(path.name for path in Path(mixer.uploads._folder.name).rglob("*") if path.is_file())


def test_uploads_are_read_by_bwlab_and_bad_ones_leave_nothing(mixer: Mixer, files: tuple[Path, Path]) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    assert upload(client, session, "a.pt", b"\x80\x02.") == (400, "it is no .safetensors file")
    status, found = upload(client, session, "pickle.safetensors", b"\x80\x02}q\x00.")
    assert (status, bool(found)) == (400, True)
    assert uploaded(mixer) == []
    content = files[0].read_bytes()
    assert upload(client, session, "../mine.safetensors", content) == (200, "")
    assert uploaded(mixer) == ["mine.safetensors"]
    state = client.delete(f"/api/sessions/{session}/adapters/2").json()
    assert [adapter["name"] for adapter in state["adapters"]] == ["fox", "ink"]
    assert uploaded(mixer) == []


def test_too_large_uploads_are_refused(mixer: Mixer) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    status, found = upload(client, session, "a.safetensors", bytes(mixer.offer.most_upload + 1))
    assert (status, found) == (400, "it is larger than 10 MB")
    assert uploaded(mixer) == []


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"settings": ' + b"[" * 5000, b'{"number": NaN}', b"0" * (server.MOST_JSON + 1)]
)
def test_broken_requests_are_one_line(mixer: Mixer, content: bytes) -> None:
    client = client_of(mixer)
    answer = client.post(f"/api/sessions/{opened(client)['id']}/images/mix", content=content)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"asked", "found", "fix"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"settings": {"steps": 0}},
        {"settings": {"seed": -1}},
        {"settings": {"cfg": "much"}},
        {"settings": {"unknown": 1}},
        {"scales": [{"whole": 2.5}, {}]},
        {"scales": [{"blocks": {"nowhere": 1}}, {}]},
        {"scales": [{"schedule": "always"}, {}]},
        {"scales": [{}]},
        {"scales": 1},
        {"number": "1"},
    ],
    ids=str,
)
def test_wrong_values_are_named(mixer: Mixer, wrong: dict[str, object]) -> None:
    client = client_of(mixer)
    answer = client.post(f"/api/sessions/{opened(client)['id']}/images/mix", json={**body(1, 1, 1), **wrong})
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"asked", "found", "fix"}


def test_unknown_sessions_kinds_and_bases_are_named(mixer: Mixer) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    found = [
        client.get("/api/sessions/nobody"),
        client.post(f"/api/sessions/{session}/images/other", json=body(1, 1, 1)),
        client.post(f"/api/sessions/{session}/jobs/other", json={}),
        client.post(f"/api/sessions/{session}/base", json={"base": "/etc"}),
        client.post(f"/api/sessions/{session}/roles", json={"identity": 0, "style": 7}),
        client.get(f"/api/sessions/{session}/adapters/9/file"),
    ]
    assert [answer.status_code for answer in found] == [400] * len(found)


def test_a_password_locks_everything_but_its_field(mixer: Mixer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "AFTER_A_WRONG_PASSWORD", 0.0)
    client = client_of(mixer, SECRET)
    assert (client.get("/").status_code, client.get("/").headers["location"]) == (303, "/login")
    assert client.get("/mixer.js").status_code == 401
    assert client.post("/api/sessions", json={}).status_code == 401
    assert client.get("/login").status_code == 200
    for wrong in ("", "wrong", SECRET[:-1], f"{SECRET}x", None, "\ud800"):
        assert client.post("/login", content=json.dumps({"password": wrong})).status_code == 401
    assert client.get("/").status_code == 303
    answer = client.post("/login", json={"password": SECRET})
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert SECRET not in cookie
    assert client.get("/").status_code == 200
    other = client_of(mixer, SECRET)
    other.cookies.set(f"bwlab_ui_{PORT}", "forged")
    assert other.get("/").status_code == 303


def test_a_login_from_another_site_is_refused(mixer: Mixer) -> None:
    client = client_of(mixer, SECRET, origin="http://evil.example")
    assert client.post("/login", json={"password": SECRET}).status_code == 403


def test_no_password_is_asked_for_on_this_machine_only(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        assert password_of(options(host=host)) is None
    with pytest.raises(BwlabError, match="there is no password"):
        password_of(options(host="0.0.0.0"))
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\nother\n")
    password = password_of(options(host="0.0.0.0", password_file=file))
    assert password is not None
    assert password.matches(SECRET)
    assert not password.matches("other")
    file.write_text(f"{SECRET}\n", encoding="utf-8-sig")  # as PowerShell 5 writes it
    with_mark = password_of(options(password_file=file))
    assert with_mark is not None
    assert with_mark.matches(SECRET)
    file.write_text("short\n")
    with pytest.raises(BwlabError, match="5 characters"):
        password_of(options(password_file=file))
    with pytest.raises(BwlabError, match="No such file"):
        password_of(options(password_file=tmp_path / "missing"))


def test_what_is_wrong_with_the_command_is_said(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="no such folder"):
        offer_of(options(folder=tmp_path / "missing"))
    with pytest.raises(BwlabError, match="NAME=DIR"):
        offer_of(options(data=("fox",)))
    with pytest.raises(BwlabError, match="no adapter is called fox"):
        offer_of(options(data=(f"fox={tmp_path}",)))
    with pytest.raises(BwlabError, match="7 adapters"):
        offer_of(options(adapters=(Path("fox.safetensors"),) * 7))
    offer = offer_of(options(adapters=(Path("fox.safetensors"),), data=(f"fox={tmp_path}",)))
    assert (offer.bases, offer.data) == (("emoji", "emoji-dit"), {"fox": tmp_path})
    with listening(HOST, 0) as taken, pytest.raises(BwlabError, match="0 takes a free one"):
        listening(HOST, taken.getsockname()[1])
    with pytest.raises(BwlabError, match="host of this machine"):
        listening("no.such.host.invalid", 0)


def test_the_address_is_one_that_this_machine_can_open() -> None:
    assert address_of(Access("0.0.0.0", 1)) == "http://127.0.0.1:1/"
    assert address_of(Access("::1", 1)) == "http://[::1]:1/"
    assert OURS["origin"] + "/" == address_of(Access(HOST, PORT))


def test_the_page_ships_whole() -> None:
    folder = Path(server.__file__).parent / "page"
    assert {name for name, _ in PAGE.values()} == {file.name for file in folder.iterdir()}
