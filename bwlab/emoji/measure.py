"""The quality bar of the embedded base with its controls, as a table and a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from rich.table import Table

from bwlab.emoji.art import on_background
from bwlab.emoji.build import Art, load_art, paint, sample_training_captions, styles_with_role, world_candidates
from bwlab.emoji.evaluate import Candidates, Pictures, Retrieval, distances, other_set_control, retrieval
from bwlab.emoji.world import HELD_OUT, caption
from bwlab.pipelines import load_base

Report = dict[str, Retrieval]


def measure(
    base: str, work: Path, cfg: float = 4.0, count: int = 64, seed: int = 0, sheet: Path | None = None
) -> Report:
    """Return the retrieval of painted captions and of the controls, by row name.

    Controls: chance; the true pictures through the autoencoder; true pictures of held-out identities through it;
    and true drawings looked up among all *other* sets (how far the distance itself recognises an identity).
    """
    art = load_art(work)
    candidates = world_candidates(art)
    pipeline = load_base(base)
    truths = sample_training_captions(art, count, seed)
    painted = paint(pipeline, [caption(style, name) for name, style in truths], cfg, seed)
    true = _true_pictures(art, truths)
    unseen = [(name, style) for name in HELD_OUT for style in styles_with_role("train")][:: max(1, 210 // count)]
    if sheet is not None:
        _write_sheet(painted, true, sheet)
    report = {
        f"painted, cfg {cfg:g}": retrieval(distances(painted, candidates), candidates, truths),
        "chance": _chance(candidates, count),
        "true pictures through the autoencoder": _through(pipeline.vae, true, truths, candidates),
        "unseen identities through the autoencoder": _through(
            pipeline.vae, _true_pictures(art, unseen), unseen, candidates
        ),
    }
    for style in styles_with_role("train"):
        report[f"{style}'s true pictures among the other sets"] = other_set_control(
            candidates, style, candidates.identities
        )
    return report


def _true_pictures(art: Art, truths: Sequence[tuple[str, str]]) -> Pictures:
    return on_background(np.stack([art.of([name], [style])[0, 0] for name, style in truths]))


def _chance(candidates: Candidates, count: int) -> Retrieval:
    identities, styles = len(candidates.identities), len(candidates.styles)
    return Retrieval(count, 1 / styles, 1 / identities, 5 / identities)


@torch.no_grad()
def _through(
    vae: AutoencoderKL, pictures: Pictures, truths: Sequence[tuple[str, str]], candidates: Candidates
) -> Retrieval:
    scaled = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded = vae.decode(vae.encode(scaled).latent_dist.mean).sample.clamp(-1, 1)
    rebuilt = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return retrieval(distances(rebuilt, candidates), candidates, truths)


def _write_sheet(painted: Pictures, true: Pictures, path: Path, columns: int = 16) -> None:
    from PIL import Image

    rows = []
    for start in range(0, len(painted) - len(painted) % columns, columns):
        chosen = slice(start, start + columns)
        rows += [np.concatenate(list(painted[chosen]), axis=1), np.concatenate(list(true[chosen]), axis=1)]
    Image.fromarray(np.concatenate(rows)).save(path)


def retrieval_table(report: Report) -> Table:
    """Return the report as a table: shares in percent."""
    table = Table(title="Nearest true picture, all identities x styles as candidates")
    table.add_column("pictures")
    for column in ("n", "style %", "identity %", "identity in 5 %"):
        table.add_column(column, justify="right")
    for name, row in report.items():
        shares = (row.style, row.identity, row.identity_top5)
        table.add_row(name, str(row.count), *(f"{100 * share:.1f}" for share in shares))
    return table
