"""Conflict in generated images: the prompts, the scorer and the training images with which it is measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.adapters.names import adapter_name
from bwlab.base.names import EMBEDDED_FOLDERS
from bwlab.errors import BwlabError
from bwlab_analysis.analyze.arguments import MOST_REFERENCES, new_judge, new_sampling
from bwlab_analysis.analyze.results import Recommended
from bwlab_analysis.measures import IDENTITY, STYLE

if TYPE_CHECKING:
    from bwlab.adapters.adapter import Adapter
    from bwlab_analysis.activations.loaded_base import LoadedBase
    from bwlab_analysis.activations.pair import FilePair, MeasuredConflict, OnPass
    from bwlab_analysis.fidelity.rollouts import TrainedSubject
    from bwlab_analysis.installed import Warn

LEARNS = (IDENTITY, STYLE)
"""The values of `--learns`: what an adapter has learned."""
SEARCH_IMAGES = 600
"""Number of images in which a search for a better composition tries the usual changes."""
MOST_DRAWS = 1
"""Number of random adapters in the place of each adapter in images, which take most of the time."""
PROOF_STEPS, PROOF_IMAGES = 25, 16
"""Number of sampling steps of the images that prove the advice, and smallest number of them for each composition."""


@dataclass(frozen=True)
class Sampled:
    """How images are generated to measure conflict in them; the attributes have the names of the command's options.

    Attributes:
        samples: number of images of each composition; 0: none are generated.
        steps, cfg: as in `bwlab.generation.sample.generate`.
        clip: open_clip model to score with; None: the embedded base's own scorer, or none with other bases.
        learns: `"identity"` or `"style"` by adapter file, where it is not to be found from the training images.
        advise: whether a better composition is searched.
        budget: number of images of that search, at most.

    """

    samples: int
    steps: int
    cfg: float
    clip: str | None
    learns: Mapping[Path, str]
    advise: bool = False
    budget: int = SEARCH_IMAGES

    def check(self, files: Collection[Path], data: Collection[Path]) -> None:
        """Raise BwlabError for settings that are out of range or that would have no effect.

        Args:
            files: the adapter files.
            data: the adapter files that have training images.

        """
        if not math.isfinite(self.cfg):
            raise BwlabError(f"--cfg {self.cfg}", "it is not a finite number", "Give a number such as 3")
        for file, learned in self.learns.items():
            asked = f"--learns {adapter_name(file)}={learned}"
            if learned not in LEARNS:
                raise BwlabError(asked, "an adapter learns an identity or a style", f"Give {' or '.join(LEARNS)}")
            if file not in data:
                raise BwlabError(asked, "it has no training images", f"Add --data {adapter_name(file)}=DIR")
        if self.clip is not None and not data:
            raise BwlabError(f"--clip {self.clip}", "no training images to compare with", "Add --data NAME=DIR")
        if self.samples == 0 and (self.clip is not None or self.learns):
            asked = "--clip" if self.clip is not None else "--learns"
            raise BwlabError(asked, "no images are generated, so there is nothing to score", "Leave out --samples 0")
        if self.advise:
            self._check_advise(files, data)

    def _check_advise(self, files: Collection[Path], data: Collection[Path]) -> None:
        if len(files) != 2:
            fix = "Compare two adapters at a time"
            raise BwlabError("--advise", f"{len(files)} adapters, and the search is for two", fix)
        missing = [file for file in files if file not in data]
        if missing:
            names = " ".join(f"--data {adapter_name(file)}=DIR" for file in missing)
            raise BwlabError("--advise", "the search needs the training images of both adapters", f"Add {names}")
        if self.samples == 0:
            raise BwlabError("--advise", "no images are generated (--samples 0)", "Leave out --samples 0")


def measure_generated(
    base: LoadedBase,
    files: Sequence[Path],
    adapters: Mapping[Path, Adapter],
    data: Mapping[Path, Path],
    learned: Mapping[Path, TrainedSubject],
    prompts: Sequence[str],
    sampled: Sampled,
    draws: int,
    seed: int,
    on_pass: OnPass,
    warn: Warn,
) -> dict[FilePair, MeasuredConflict]:
    """Return what the adapters of each pair lose beside each other in generated images.

    A pair without prompts, whose captions have no tags in common, is left out with a warning.

    Args:
        base: the base.
        files: the adapters to compare.
        adapters: the loaded adapters by file.
        data: folder of training images by adapter file.
        learned: what adapters with training images have learned; empty without a scorer.
        prompts: the prompts; none: the tags that most captions of both adapters have in common.
        sampled: how images are generated.
        draws: number of random adapters that replace each adapter, of which images show `MOST_DRAWS`.
        seed: seed of the first image of each prompt.
        on_pass: called with the numbers of finished sampling steps and of all.
        warn: called with each warning.

    Raises:
        BwlabError: an image cannot be read.

    """
    from bwlab.dataset.encoded import folder_captions
    from bwlab_analysis.fidelity.rollouts import RolloutSettings, measure_rollouts

    captions = {} if prompts else {file: folder_captions(folder, MOST_REFERENCES) for file, folder in data.items()}
    pairs, measured = list(combinations(files, 2)), {}
    for number, pair in enumerate(pairs, 1):
        texts = tuple(prompts) or _shared(pair, captions)
        if not texts:
            names = " and ".join(map(adapter_name, pair))
            warn(f"No images are generated with {names}: their captions have no tags in common. Give --prompts FILE.")
            continue
        null = min(draws, MOST_DRAWS)
        settings = RolloutSettings(texts, sampled.samples, sampled.steps, sampled.cfg, null, seed)
        stage = "generating images" + (f" of pair {number} of {len(pairs)}" if len(pairs) > 1 else "")
        a, b = (adapters[file] for file in pair)
        measured[pair] = measure_rollouts(
            base.pipe,
            a,
            b,
            {letter: learned[file] for letter, file in zip("ab", pair, strict=True) if file in learned},
            settings,
            partial(on_pass, stage=stage),
        )
    return measured


def learned_by_file(base: LoadedBase, data: Mapping[Path, Path], sampled: Sampled) -> dict[Path, TrainedSubject]:
    """Return what each adapter with training images has learned; nothing without a scorer.

    Raises:
        BwlabError: the scorer or an image cannot be read.

    """
    from bwlab.images import read_images
    from bwlab_analysis.fidelity.clip import clip_of, load_clip
    from bwlab_analysis.fidelity.rollouts import learned_from

    scored = data and (sampled.clip is not None or base.base in EMBEDDED_FOLDERS)
    clip = load_clip(clip_of(base.base, sampled.clip)) if scored else None
    if sampled.learns and not sampled.advise and (clip is None or not clip.parts):
        fix = "Leave out --learns: the likeness to the training images is scored as a whole"
        raise BwlabError("--learns", "only the scorer of the embedded base distinguishes identity from style", fix)
    if clip is None:
        return {}
    return {
        file: learned_from(
            clip,
            read_images(folder, MOST_REFERENCES),
            sampled.learns.get(file),
        )
        for file, folder in data.items()
    }


def in_roles(pair: FilePair, learned: Mapping[Path, TrainedSubject], said: Mapping[Path, str], warn: Warn) -> FilePair:
    """Return two adapters, the identity's first.

    Args:
        pair: the adapters.
        learned: what they have learned, by the scorer. One that does not distinguish identity from style leaves it to
            `said`, or else to the order of the adapters, with a warning.
        said: `"identity"` or `"style"` by adapter, where the user has said so.
        warn: called with the warning.

    Raises:
        BwlabError: there is no scorer, or both have learned the same.

    """
    kinds = [learned[file].of if file in learned else "" for file in pair]
    if "" in kinds:
        raise BwlabError("--advise", "no model to score images with", "Give --clip MODEL")
    if not {*kinds} <= {*LEARNS}:
        others = {IDENTITY: STYLE, STYLE: IDENTITY}
        first, second = (said.get(file) for file in pair)
        if first is None and second is None:
            identity, style = map(adapter_name, pair)
            warn(
                f"This model does not tell identity from style: the search takes {identity} as the identity and "
                f"{style} as the style, as they are given in this order. If it is the other way round, add --learns "
                f"{identity}={STYLE}."
            )
            first = IDENTITY
        kinds = [first or others[second or ""], second or others[first or ""]]
    if kinds == [STYLE, IDENTITY]:
        return pair[1], pair[0]
    if kinds[0] == kinds[1] and kinds[0] in LEARNS:
        learned_alike = (
            f"by their training images, both adapters learned {'an identity' if kinds[0] == IDENTITY else 'a style'}"
        )
        other = STYLE if kinds[0] == IDENTITY else IDENTITY
        fix = f"Give --learns {adapter_name(pair[1])}={other} if so: the search needs an identity and a style"
        raise BwlabError("--advise", learned_alike, fix)
    return pair


def advise(
    base: LoadedBase,
    pair: FilePair,
    data: Mapping[Path, Path],
    prompts: Sequence[str],
    sampled: Sampled,
    seed: int,
    on_pass: OnPass,
    warn: Warn,
) -> Recommended | None:
    """Return the composition to use of two adapters, the identity's first, by a search; see `recommend`.

    Return None, with a warning, if there is nothing to search for because an adapter alone is no better than the base.

    Args:
        base: the base.
        pair: the adapters.
        data: their folders of training images, which are the references.
        prompts: the prompts of the search and the proof.
        sampled: settings of the search.
        seed: number that is added to the seeds of the search.
        on_pass: called with (done, all, stage), in images.
        warn: called with each warning.

    """
    from bwlab_analysis.fidelity.recommend import NothingGained, recommend

    identity, style = (data[file] for file in pair)
    judge = new_judge(base.manager, base.base, sampled.clip, identity, style, warn)
    proved = len(prompts) // 2 or 1
    sampling = new_sampling(tuple(prompts), math.ceil(PROOF_IMAGES / proved), PROOF_STEPS, sampled.cfg)

    def report(done: int, total: int, name: str) -> None:
        on_pass(done, total, "search for a better composition")

    try:
        recommendation = recommend(base, pair, judge, sampling, sampled.budget, sampled.steps, seed, report)
    except NothingGained as error:
        warn(f"The search for a better composition was not run: {error}")
        return None
    return Recommended(base.base, base.scheme, pair, judge, sampling, recommendation, base.clip_skip)


def _shared(pair: FilePair, captions: Mapping[Path, Sequence[str]]) -> tuple[str, ...]:
    from bwlab_analysis.fidelity.rollouts import shared_prompt

    if not all(file in captions for file in pair):
        return ()
    prompt = shared_prompt([captions[file] for file in pair])
    return (prompt,) if prompt else ()
