"""One call of `bwlab ui`: check everything, load the base, and serve the page until somebody stops it."""

from __future__ import annotations

import socket
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bwlab.adapters.names import adapter_name
from bwlab.base.names import EMBEDDED_FOLDERS
from bwlab.errors import BwlabError
from bwlab.plugins.manager import installed_manager
from bwlab.terminal import echo
from bwlab_ui.security import Access, Password, is_address, is_loopback

if TYPE_CHECKING:
    from bwlab_ui.mixer import Mixer, Offer

MOST_PASSWORD_FILE = 4096


@dataclass(frozen=True)
class Options:
    """The options of one call; the attributes have the names of the command's options."""

    adapters: tuple[Path, ...]
    base: str
    folder: Path | None
    data: tuple[str, ...]
    clip: str | None
    device: str
    host: str
    port: int
    password_file: Path | None
    most_upload: int
    open_page: bool


def run(options: Options) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        BwlabError: an adapter, folder, base, host or password is wrong, or the port is taken.

    """
    from bwlab_analysis.activations.loaded_base import require_adapters

    manager = installed_manager()
    offer = offer_of(options)
    require_adapters(options.adapters, manager)
    password = password_of(options)
    with listening(options.host, options.port) as listener:
        from bwlab_ui.mixer import Mixer

        port = int(listener.getsockname()[1])
        access = Access(options.host, port, password)
        echo(f"Loading {options.base} ...", err=True)
        mixer = Mixer(offer, manager, options.device)
        try:
            model = mixer.models.model(options.base)
            for file in options.adapters:
                model.adapter(file)
        except BaseException:
            mixer.close()
            raise
        serve(mixer, access, listener, open_page=options.open_page)


def serve(mixer: Mixer, access: Access, listener: socket.socket, *, open_page: bool) -> None:
    """Serve the page of a mixer on a socket until Ctrl-C."""
    import uvicorn

    from bwlab_ui.server import build_app

    address = address_of(access)
    echo(f"The block mixer is at {address} (Ctrl-C stops it)", exact=True)
    sys.stdout.flush()
    if open_page:
        webbrowser.open(address)
    config = uvicorn.Config(
        build_app(mixer, access),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listener])


def address_of(access: Access) -> str:
    """Return the address of the page; for a server on all hosts, that on this machine."""
    everywhere = is_address(access.host) and access.host in ("0.0.0.0", "::")
    host = "127.0.0.1" if everywhere else access.host
    return f"http://{f'[{host}]' if ':' in host else host}:{access.port}/"


def offer_of(options: Options) -> Offer:
    """Return what the page may use; `BwlabError` for a folder that is none, or that names no adapter."""
    from bwlab_ui.mixer import Offer
    from bwlab_ui.session import MOST_ADAPTERS

    if len(options.adapters) > MOST_ADAPTERS:
        found = f"{len(options.adapters)} adapters"
        raise BwlabError("bwlab ui", found, f"Open {MOST_ADAPTERS} at most; the page can close some and open others")
    if options.folder is not None and not options.folder.is_dir():
        raise BwlabError(f"--folder {options.folder}", "no such folder", "Give a folder of adapter files")
    data: dict[str, Path] = {}
    known = [adapter_name(file) for file in options.adapters]
    for text in options.data:
        name, equals, folder = text.partition("=")
        if not equals or not Path(folder).is_dir():
            found = "no such folder" if equals else "it is not of the form NAME=DIR"
            raise BwlabError(
                f"--data {text}", found, "Give the name of an adapter and its folder, such as fox=data/fox"
            )
        if name not in known and options.folder is None:
            raise BwlabError(f"--data {text}", f"no adapter is called {name}", f"Known: {', '.join(known) or 'none'}")
        data[name] = Path(folder)
    bases = tuple(dict.fromkeys((options.base, *EMBEDDED_FOLDERS)))
    return Offer(bases, options.adapters, options.folder, data, options.clip, options.most_upload)


def password_of(options: Options) -> Password | None:
    """Return the password of a server that others can reach, from the file or the prompt; None if there is none.

    Raises:
        BwlabError: the file cannot be read, the password is too short, or nobody is there to give one.

    """
    if options.password_file is not None:
        try:
            with options.password_file.open(encoding="utf-8-sig") as file:
                return Password.of(file.readline(MOST_PASSWORD_FILE).rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            found = getattr(error, "strerror", None) or "it is no text"
            raise BwlabError(f"--password-file {options.password_file}", found, "Give a readable file") from error
    if is_loopback(options.host):
        return None
    if not sys.stdin.isatty():
        fix = "Give --password-file FILE, or start it in a terminal, which asks for one"
        raise BwlabError(f"--listen {options.host}", "others can reach it, and there is no password", fix)
    return Password.of(typer.prompt("Password of this server", hide_input=True, confirmation_prompt=True))


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; `BwlabError` if the host is not this machine's or the port is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BwlabError(f"--listen {host}", f"{error.strerror or error}", "Give a host of this machine") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        fix = "Give another --port; 0 takes a free one"
        raise BwlabError(f"listening on {host}, port {port}", f"{error.strerror or error}", fix) from error
    return listener
