"""The mixer behind the page: what may be opened, and what a session can have made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.adapters.names import adapter_name
from bwlab.base.models import family_of
from bwlab.base.names import EMBEDDED_FOLDERS
from bwlab.blocks.scheme import BlockScheme
from bwlab.errors import BwlabError
from bwlab.terminal import warn
from bwlab_analysis.report.block_map import is_of_unet, lists_of_blocks, sides_of_u
from bwlab_ui import advice, exports, measures, strip
from bwlab_ui.models import Models
from bwlab_ui.session import Session, Sessions
from bwlab_ui.settings import AdapterScales, ImageSettings
from bwlab_ui.uploads import LONGEST_NAME, Uploads, safe_name
from bwlab_ui.work import Job, Json, Worker

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager

SUFFIX = ".safetensors"
PROMPT = "ink, fox, white background"
"""The first prompt on the embedded bases, which know only such tags."""


@dataclass(frozen=True)
class Offer:
    """What a page may use.

    Attributes:
        bases: names or paths of the bases; the first is chosen at first.
        files: the adapters that are open at first.
        folder: folder of further adapters; None: none.
        data: folder of reference images by the name of an adapter.
        clip: open_clip model that scores images; None: the scorer of the embedded base.
        most_upload: largest file that may be uploaded, in bytes.

    """

    bases: tuple[str, ...]
    files: tuple[Path, ...] = ()
    folder: Path | None = None
    data: Mapping[str, Path] = field(default_factory=dict)
    clip: str | None = None
    most_upload: int = 2**30


class Mixer:
    """Everything that the pages of one server share.

    Args:
        offer: what a page may use.
        manager: the plugins.
        device: name of a PyTorch device, or `"auto"`.

    """

    def __init__(self, offer: Offer, manager: PluginManager, device: str = "auto") -> None:
        self.offer, self.manager = offer, manager
        self.models = Models(offer.bases, manager, device)
        self.sessions, self.worker = Sessions(), Worker()
        self.uploads = Uploads()

    def close(self) -> None:
        """Cancel all work and delete what was uploaded."""
        self.worker.stop()
        self.uploads.close()

    def new_session(self, like: str | None = None) -> Session:
        """Return a new session, or a copy of another one for a page that shows the same."""
        if like is not None:
            return self.sessions.add(self.sessions.get(like).copy())
        embedded = self.offer.bases[0] in EMBEDDED_FOLDERS
        session = Session(self.offer.bases[0], settings=ImageSettings(prompt=PROMPT if embedded else ""))
        for file in self.offer.files:
            session.add(file)
        self.sessions.add(session)
        self.uploads.sweep(self.sessions.files())
        return session

    def folder_files(self) -> dict[str, Path]:
        """Return the adapters in the offered folder by name; links that lead out of it are left out."""
        if self.offer.folder is None:
            return {}
        inside = self.offer.folder.resolve()
        files = sorted(self.offer.folder.glob(f"*{SUFFIX}"))
        return {file.name: file for file in files if file.is_file() and file.resolve().parent == inside}

    def open(self, session: Session, name: str) -> None:
        """Open an adapter of the offered folder; `BwlabError` for a name that it does not list, or a bad file."""
        files = self.folder_files()
        if name not in files:
            found = "no folder is offered" if self.offer.folder is None else "the folder does not list it"
            raise BwlabError(f"opening {name[:LONGEST_NAME]}", found, "Choose a file of the list, or upload one")
        self.add(session, files[name])

    def add(self, session: Session, file: Path) -> None:
        """Open an adapter file; `BwlabError` if it is broken or does not fit the base."""
        self.models.model(session.base).adapter(file)
        session.add(file)

    def close_adapter(self, session: Session, place: int) -> None:
        """Close an adapter; a file that was uploaded is deleted once no session has it open."""
        session.remove(place)
        self.uploads.sweep(self.sessions.files())

    def choose_base(self, session: Session, base: str) -> None:
        """Use another base; `BwlabError`, and the old one stays, if an open adapter does not fit it."""
        model = self.models.model(base)
        for file in session.files:
            model.adapter(file)
        with session.lock:
            session.base = base
            session.scales = [AdapterScales() for _ in session.files]
            session.changed()

    def document(self, session: Session) -> Json:
        """Return a session as JSON."""
        from bwlab_analysis.fidelity.recommend import least_budget

        model = self.models.model(session.base)
        blocks = [list(model.adapter(file).blocks()) for file in session.files]
        return {
            "id": session.id,
            "base": session.base,
            "bases": self.models.names,
            "folder": list(self.folder_files()),
            "shape": shape(model.loaded.scheme),
            "adapters": [
                {"name": name, "blocks": own, "scales": scale.model_dump()}
                for name, own, scale in zip(session.names, blocks, session.scales, strict=True)
            ],
            "roles": {"identity": session.identity, "style": session.style},
            "settings": session.settings.model_dump(),
            "measures": measures.shown(session.measures),
            "jobs": {kind: job.document() for kind, job in session.jobs.items()},
            "least_budget": least_budget(prompts=1),
            "most_upload": self.offer.most_upload,
        }

    def image(
        self, session: Session, kind: str, number: int, settings: ImageSettings, scales: Sequence[AdapterScales]
    ) -> bytes:
        """Return an image as a PNG: `"mix"`, with the given scales, which the session keeps, or `"full"`, with 1.

        Args:
            session: the session of the page.
            kind: `"mix"` or `"full"`.
            number: number of the request, larger than that of every older one of its kind.
            settings, scales: what the page shows.

        Raises:
            Cancelled: a newer request came meanwhile.
            BwlabError: something is wrong with an adapter or a setting.

        """
        if kind not in session.images:
            raise BwlabError(f"the image {kind}", "there is no such image", "Ask for mix or full")
        newest = session.images[kind]
        with newest.request(number) as check:
            if kind == "mix":
                session.update(settings, scales)
            files, model = list(session.files), self.models.model(session.base)
            used = scales if kind == "mix" else [AdapterScales() for _ in files]
            return model.image(files, used, settings, check, newest.on_step)

    def start(self, session: Session, kind: str, budget: int = 0) -> Job:
        """Start long work: `"weights"`, `"measure"`, `"strip"` or `"advice"`; an older job of the kind is cancelled."""
        works = {"weights": self._weights, "measure": self._measure, "strip": self._strip, "advice": self._advice}
        if kind not in works:
            raise BwlabError(f"the job {kind}", "there is no such job", f"Choose from {', '.join(works)}")
        if not session.files:
            raise BwlabError(f"the job {kind}", "no adapter is open", "Open one")
        work = works[kind](session, budget)
        if kind in session.jobs:
            session.jobs[kind].cancel()
        session.jobs[kind] = Job(kind)
        return self.worker.start(session.jobs[kind], work)

    def _weights(self, session: Session, _: int) -> Callable[[Job], Json]:
        files, names = list(session.files), session.names

        def work(job: Job) -> Json:
            job.report(0, 0, "weights")
            return self._measured(session, job, measures.of_weights(files, names))

        return work

    def _measure(self, session: Session, _: int) -> Callable[[Job], Json]:
        model, pair, settings = self.models.model(session.base), session.pair, session.settings
        names = session.names[session.identity], session.names[session.style]
        return lambda job: self._measured(session, job, measures.in_base(model, pair, names, settings, job))

    def _measured(self, session: Session, job: Job, groups: measures.Groups) -> Json:
        job.check()
        for group, found in groups.items():
            session.measures[group] = {**session.measures.get(group, {}), **found}
        return measures.shown(session.measures)

    def _strip(self, session: Session, _: int) -> Callable[[Job], Json]:
        model = self.models.model(session.base)
        return partial(strip.work, model, list(session.files), session.names, session.settings)

    def _advice(self, session: Session, budget: int) -> Callable[[Job], Json]:
        identity, style = (self.offer.data.get(adapter_name(file)) for file in session.pair)
        search = advice.Search(session.pair, (identity, style), session.settings, budget, self.offer.clip)
        work = partial(advice.work, self.models.model(session.base), search, warn)
        # The roles may change while it searches; the page gives the scales to the adapters that were searched for.
        places: list[Json] = [session.identity, session.style]
        return lambda job: {**work(job), "adapters": places}

    def exports(self, session: Session) -> Json:
        """Return the scales of a session in every notation, as JSON."""
        model = self.models.model(session.base)
        side = family_of(model.loaded.pipe).base_side(model.loaded.pipe)
        given = session.base, session.files, session.names, session.scales, session.settings
        words = {file: [one.word for one in model.adapter(file).embeddings] for file in session.files}
        return exports.texts(*given, model.loaded.scheme, side, words, self.uploads.received())

    def export(self, session: Session, place: int) -> Path:
        """Write an adapter with its scales folded in, and return the file, which is the only one in its folder."""
        session.require(place)
        file, scale = session.files[place], session.scales[place]
        scheme = self.models.model(session.base).loaded.scheme
        out = self.uploads.new_folder() / f"{safe_name(adapter_name(file))}-mixed{SUFFIX}"
        return exports.adapter_file(file, scale, scheme, out, self.manager)


def shape(scheme: BlockScheme) -> Json:
    """Return how the blocks of a model are drawn, as JSON: the two sides of a U, or the lists of a transformer."""
    blocks = scheme.blocks()
    if is_of_unet(blocks):
        down, up = sides_of_u(blocks)
        middle = [block for block in blocks if block == "mid"]
        drawn = {*down, *up, *middle}
        return {"kind": "u", "down": down, "middle": middle, "up": up, "others": _others(blocks, drawn)}
    lists = lists_of_blocks(blocks)
    return {"kind": "column", "lists": lists, "others": _others(blocks, {block for own in lists for block in own})}


def _others(blocks: Sequence[str], drawn: set[str]) -> list[str]:
    return [block for block in blocks if block not in drawn]
