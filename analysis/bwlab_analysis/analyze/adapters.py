"""Analyses of adapter files by their weights and by their effects in a base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.terminal import counted
from bwlab_analysis.analyze.arguments import (
    TIMESTEPS,
    File,
    OnStage,
    Prompts,
    as_warning,
    by_file,
    checked_timesteps,
    named_files,
    texts_or_images,
)
from bwlab_analysis.analyze.generated import SEARCH_IMAGES, Sampled
from bwlab_analysis.analyze.results import Activations, Conflict, Norms, PairsInFile, Recommended

if TYPE_CHECKING:
    from bwlab_analysis.activations.loaded_base import LoadedBase
    from bwlab_analysis.activations.pair import BaseSettings, MeasuredInBase
    from bwlab_analysis.installed import Warn


def norms(file: File, *, base: str | None = None, warn: Warn | None = None) -> Norms:
    """Measure for each block and kind of module how much an adapter changes, and how many directions it uses.

    Args:
        file: an adapter file of any tool.
        base: base model whose weights the changes are compared with.
        warn: called with each warning; None: a `BwlabWarning`.

    Raises:
        BwlabError: the file or the base cannot be read, or the adapter needs a base and none is given.

    """
    from bwlab.plugins.manager import installed_manager
    from bwlab_analysis.installed import block_metrics
    from bwlab_analysis.weights.adapter_weights import weights_of
    from bwlab_analysis.weights.norms import measure_norms

    manager = installed_manager()
    return Norms(measure_norms(Path(file), block_metrics(manager, warn or as_warning), manager, weights_of(base)))


def conflict(
    *files: File,
    base: str | None = None,
    data: Mapping[str, File] | Mapping[Path, File] | None = None,
    prompts: Prompts = (),
    timesteps: Sequence[int] = TIMESTEPS,
    latents: int = 16,
    random: int = 5,
    seed: int = 0,
    clip_skip: int = 1,
    device: str = "auto",
    samples: int = 8,
    steps: int = 10,
    cfg: float = 3.0,
    clip: str | None = None,
    learns: Mapping[str, str] | Mapping[Path, str] | None = None,
    advise: bool = False,
    budget: int = SEARCH_IMAGES,
    signs: bool = False,
    on_progress: OnStage | None = None,
    warn: Warn | None = None,
) -> Conflict:
    """Compare two or more adapters by their weights and, with a base, by their effects on each other in it.

    Args:
        files: adapter files of any tool.
        base: base model to measure activations and losses in; None: only the weights are compared.
        data: folder of training images by adapter: its file, its short name, or its letter a, b ...
        prompts: prompts for which images are generated, and on which activations are measured; none: activations are
            measured on training images, and images are generated for the tags that the captions have in common.
        timesteps: timesteps 0..999 to measure at.
        latents: number of noisy latents.
        random: number of random adapters that replace each adapter, as the null; images show one of them.
        seed: seed of the noise and of the random adapters.
        clip_skip: layer of the text encoder that is read, counted from the last one, which is 1.
        device: name of a PyTorch device, or `"auto"`.
        samples: number of images of each composition in which conflict is measured; 0: no images are generated.
        steps: sampling steps of these images.
        cfg: guidance scale of these images.
        clip: open_clip model to score them with: a folder, or NAME=WEIGHTS; None: the embedded base's own scorer.
        learns: `"identity"` or `"style"` by adapter, as in `data`; otherwise it is found from the training images.
        advise: also search for a composition of two adapters that is better than both at scale 1, and prove it.
        budget: number of images of that search, at most.
        signs: also measure the sign conflict, which multiplies all deltas out.
        on_progress: called with (done, total, stage) before each pass through the base.
        warn: called with each warning; None: a `BwlabWarning`.

    Raises:
        BwlabError: a file, folder or base cannot be used, or a base is given without prompts and data.

    """
    from bwlab.plugins.manager import installed_manager
    from bwlab_analysis.installed import conflict_measures
    from bwlab_analysis.weights.adapter_weights import weights_of
    from bwlab_analysis.weights.conflict import measure_conflict

    names, manager = named_files([Path(file) for file in files]), installed_manager()
    settings, folders = None, by_file("data", (data or {}).items(), names)
    sampled = Sampled(samples, steps, cfg, clip, by_file("learns", (learns or {}).items(), names, str), advise, budget)
    sampled.check([file for _, file in names], folders)
    if base is None and (folders or prompts):
        raise BwlabError("comparing adapters on images or prompts", "no base is given", "Give a base")
    if base is not None:
        from bwlab_analysis.activations.pair import BaseSettings

        times, texts = checked_timesteps(timesteps), texts_or_images(prompts, folders.values(), "--data NAME=DIR")
        path = None if not isinstance(prompts, str | Path) else Path(prompts)
        settings = BaseSettings(base, folders, path, texts, times, latents, random, seed, clip_skip)
    measures = [measure for measure in conflict_measures(manager, warn or as_warning) if signs or not measure.slow]
    weights, pairs = weights_of(base), list(combinations(names, 2))
    reports = []
    for done, ((name_a, a), (name_b, b)) in enumerate(pairs):
        if on_progress is not None and len(pairs) > 1:  # one pair takes too little time for a bar
            on_progress(done, len(pairs), "weights")
        reports.append(measure_conflict(a, b, measures, manager, weights, (name_a, name_b)))
    named = {file: name for name, file in names}
    if settings is None:
        return Conflict(named, [(report, None) for report in reports], {}, folders)
    from bwlab_analysis.activations.loaded_base import open_base  # imports torch, which weights alone do not need

    loaded = open_base(settings.base, manager, device, clip_skip)
    chosen = [file for _, file in names]
    measured, advice = _measured(loaded, chosen, settings, sampled, on_progress, warn or as_warning)
    in_base = [(report, measured.pairs[report.file_a, report.file_b]) for report in reports]
    return Conflict(named, in_base, measured.together, folders, advice, clip_skip)


def conflict_pairs(
    *files: File,
    out: File,
    signs: bool = False,
    cells: bool = False,
    on_progress: OnStage | None = None,
    warn: Warn | None = None,
) -> PairsInFile:
    """Compare the weights of all pairs of many adapters, and write each pair to a file as soon as it is measured.

    A file that an earlier call has begun is continued. Few adapters are in memory at a time. Adapters that cannot be
    read are named in the result.

    Args:
        files: adapter files of any tool.
        out: the file, one JSON object in each line.
        signs: also measure the sign conflict, which multiplies all deltas out.
        cells: also write the measures of cells.
        on_progress: called with (done, total, stage) before each pair.
        warn: called with each warning; None: a `BwlabWarning`.

    Raises:
        BwlabError: the file cannot be written, or holds something else.

    """
    from bwlab.plugins.manager import installed_manager
    from bwlab_analysis.installed import conflict_measures
    from bwlab_analysis.report.all_pairs import PairsSummary, nearest_pairs
    from bwlab_analysis.report.pairs_file import PairsFile
    from bwlab_analysis.weights.all_pairs import AllPairs

    names, manager = named_files([Path(file) for file in files]), installed_manager()
    measures = [measure for measure in conflict_measures(manager, warn or as_warning) if signs or not measure.slow]
    paths = [file for _, file in names]
    if len(set(paths)) < len(paths):
        raise BwlabError("comparing all pairs", f"{paths[0]} is given twice", "Give each file once")
    pairs = AllPairs(paths, measures, manager)
    with PairsFile(Path(out), paths, measures, cells) as file:
        if file.dropped:
            verb = "is" if file.dropped == 1 else "are"
            lines = f"{counted(file.dropped, 'line')} {verb} damaged or of an adapter that has changed"
            (warn or as_warning)(f"{out}: {lines}; removed")
        before = sum("total" in line for _, line in file.pairs())
        total = math.comb(len(paths), 2)
        for done, (pair, outcome) in enumerate(pairs.reports(file.known), len(file.known) + 1):
            file.add(pair, outcome)
            if on_progress is not None:
                on_progress(done, total, "weights")
        compared = ["total" in line for _, line in file.pairs()]
        nearest = nearest_pairs(file)
    found, failed, short = sum(compared), compared.count(False), [name for name, _ in names]
    return PairsInFile(PairsSummary(Path(out), short, found, before, failed, nearest, pairs.unreadable))


def _measured(
    base: LoadedBase,
    files: Sequence[Path],
    settings: BaseSettings,
    sampled: Sampled,
    on_progress: OnStage | None,
    warn: Warn,
) -> tuple[MeasuredInBase, Recommended | None]:
    """Return each pair's effects in generated images, on activations and on losses, and the advice if it is wanted."""
    from bwlab_analysis.activations.pair import measure_in_base
    from bwlab_analysis.analyze.generated import advise, in_roles, learned_by_file, measure_generated

    def on_pass(done: int, total: int, stage: str) -> None:
        if on_progress is not None:
            on_progress(done, total, stage)

    learned = learned_by_file(base, settings.data, sampled) if sampled.samples else {}
    roles = None
    if sampled.advise:
        from bwlab_analysis.fidelity.recommend import require_budget

        require_budget(sampled.budget, len(settings.texts) or 1)
        roles = in_roles((files[0], files[1]), learned, sampled.learns, warn)
    adapters = {file: base.adapter(file) for file in dict.fromkeys(files)}
    # Measure the pairs first, because this names a broken adapter.
    in_base = measure_in_base(base, files, adapters, settings, on_pass)
    generated = {}
    if sampled.samples:
        generated = measure_generated(
            base,
            files,
            adapters,
            settings.data,
            learned,
            settings.texts,
            sampled,
            settings.draws,
            settings.seed,
            on_pass,
            warn,
        )
    advice = None
    if roles is not None and (measured := next(iter(generated.values()), None)) is not None:
        prompts = measured.prompts
        advice = advise(base, roles, settings.data, prompts, sampled, settings.seed, on_pass, warn)
    pairs = {pair: replace(effects, measured=generated.get(pair)) for pair, effects in in_base.pairs.items()}
    return replace(in_base, pairs=pairs), advice


def activations(
    file: File,
    *,
    base: str = "emoji",
    data: File | None = None,
    prompts: Prompts = (),
    timesteps: Sequence[int] = TIMESTEPS,
    latents: int = 16,
    random: int = 3,
    seed: int = 0,
    clip_skip: int = 1,
    device: str = "auto",
    on_progress: OnStage | None = None,
) -> Activations:
    """Measure what an adapter changes in every block at every timestep.

    Args:
        file: an adapter file of any tool.
        base: base model.
        data: folder of captioned images to measure on.
        prompts: prompts for which the base generates images to measure on, in place of `data`.
        timesteps: timesteps 0..999 to measure at.
        latents: number of noisy latents.
        random: number of random adapters, as the null.
        seed: seed of the noise and of the random adapters.
        clip_skip: layer of the text encoder that is read, counted from the last one, which is 1.
        device: name of a PyTorch device, or `"auto"`.
        on_progress: called with (done, total, stage) before each pass through the base.

    Raises:
        BwlabError: the file, folder or base cannot be used; or neither or both of `data` and `prompts` are given.

    """
    from bwlab.plugins.manager import installed_manager
    from bwlab_analysis.activations.changes import activation_changes
    from bwlab_analysis.activations.loaded_base import choose_inputs, open_base, require_adapters

    folders = () if data is None else (Path(data),)
    times, texts = checked_timesteps(timesteps), texts_or_images(prompts, folders)
    if folders and texts:
        raise BwlabError(f"--data {data}", "also --prompts", "Give either images or prompts")
    manager = installed_manager()
    require_adapters([Path(file)], manager)
    loaded = open_base(base, manager, device, clip_skip)
    adapter = loaded.adapter(Path(file))
    inputs = choose_inputs(loaded, [loaded.images(folder, latents) for folder in folders], texts, latents, seed)
    on_pass = None if on_progress is None else lambda done, total: on_progress(done, total, "")
    report = activation_changes(loaded.pipe, loaded.scheme, adapter, inputs, times, random, seed, on_pass)
    return Activations(Path(file), base, report, clip_skip)
