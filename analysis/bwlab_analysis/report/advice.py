"""What to do about a conflict: which blocks of which adapter to turn down, in every tool's notation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bwlab.blocks.notations.lists import Translation
from bwlab.blocks.notations.translate import translate_to
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from bwlab_analysis.activations.losses import BlockBlame, LossReport


WORTH = 0.02
ADAPTERS = ("a", "b")
NOTATIONS = {"lbw": "LoRA Block Weight", "kohya": "kohya's list of blocks", "diffusers": "diffusers' set_adapters"}

# Spearman's rho with the fidelity that composed pairs lost: of all 162 pairs, and of the 54 held-out ones
# (docs/study/tables.md, "What predicts the loss").
SCORE_RHO, SCORE_RHO_HELD_OUT = 0.31, 0.68
COSINE_RHO, COSINE_RHO_HELD_OUT = -0.05, 0.11
# How often the block of most gain less cost in activations was the best one to switch off, and by chance; by losses
# it was at chance ("Blame against exhaustive search").
TOP_1, CHANCE = 0.22, 0.06


@dataclass(frozen=True)
class Step:
    """One block to turn down.

    Attributes:
        adapter: `"a"` or `"b"`.
        block: the block.
        scale: to set it to: 0, or 0.5 where its own adapter needs it too.
        gain: what the other adapter gets back, as a share of its own effect.
        loss: what its own adapter loses with the block off, likewise; None where that was not measured.

    """

    adapter: str
    block: str
    scale: float
    gain: float
    loss: float | None

    @property
    def words(self) -> str:
        """The step as a sentence."""
        other = "b" if self.adapter == "a" else "a"
        how = "off" if self.scale == 0 else f"down to {self.scale:g}"
        cost = ""
        if self.loss is not None:
            verb = "gains" if self.loss < 0 else "loses"
            cost = f" and {self.adapter} {verb} {100 * abs(self.loss):.0f} % of its own"
        return (
            f"Turn {self.adapter} {how} in {self.block}: "
            f"switched off, {other} gets {100 * self.gain:.0f} % of its effect back{cost}."
        )


def steps_of(blame: Sequence[BlockBlame]) -> tuple[Step, ...]:
    """Return the blocks whose removal gives the other adapter more than it costs their own, the best trade first.

    A block that gives more than twice what it costs is switched off; others, and those of unknown cost, are halved.
    """
    worth = [one for one in blame if one.gain - _cost(one) > WORTH]
    return tuple(
        Step(one.adapter, one.block, _scale(one), one.gain, one.loss)
        for one in sorted(worth, key=lambda one: _cost(one) - one.gain)
    )


def _cost(one: BlockBlame) -> float:
    return max(one.loss or 0.0, 0.0)


def _scale(one: BlockBlame) -> float:
    return 0.0 if one.loss is not None and one.gain > 2 * one.loss else 0.5


def specs_of(steps: Sequence[Step]) -> dict[str, str]:
    """Return each adapter's block spec by `"a"` and `"b"`: `"out2=0, *=1"`, or `"1"` to leave it as it is."""
    specs = {}
    for adapter in ADAPTERS:
        named = [f"{step.block}={step.scale:g}" for step in steps if step.adapter == adapter]
        specs[adapter] = ", ".join([*named, "*=1"]) if named else "1"
    return specs


def nothing_to_do() -> str:
    """Return what to say where no step is left."""
    return (
        f"Nothing here is worth turning down: no block gives the other adapter over {100 * WORTH:.0f} % of its effect "
        "more than it costs its own. 'bwlab analyze recommend' tries parts of adapters by painting."
    )


def notations_of(spec: str, scheme: BlockScheme) -> Mapping[str, Translation]:
    """Return a spec in the notations of other tools, by name, with what each has to be told beside it.

    Those that cannot say it are left out; a whole adapter needs none.
    """
    if set(parse_spec(spec, scheme, kind="scale").values.values()) == {1.0}:
        return {}
    found = {}
    for form, name in NOTATIONS.items():
        try:
            found[name] = translate_to(form, spec, scheme, kind="scale")
        except BwlabError:
            continue
    return found


def conflict_score(losses: Sequence[LossReport]) -> float | None:
    """Return the mean harm of two adapters to each other's loss on its own pictures; None unless both are known."""
    return (losses[0].harm.value + losses[1].harm.value) / 2 if len(losses) == 2 else None


def headline(losses: Sequence[LossReport]) -> str:
    """Return the conflict score in words, and what it is worth."""
    score = conflict_score(losses)
    if score is None:
        return (
            "No conflict score: it takes the pictures of both adapters (--data-a, --data-b). What adapters do to "
            "activations told little of the fidelity that pairs lost in bwlab's study (docs/study.md)."
        )
    harms = ", ".join(f"{one.adapter} {one.harm.value:+.3f}" for one in losses)
    return (
        f"Conflict score {score:.3f}: how far the loss on each adapter's own pictures rises beside the other, the "
        f"mean ({harms}). In bwlab's study its rank correlation with the fidelity that pairs lost was {SCORE_RHO:.2f} "
        f"({SCORE_RHO_HELD_OUT:.2f} on held-out pairs), that of the weights' cosine {COSINE_RHO:.2f} "
        f"({COSINE_RHO_HELD_OUT:.2f}): a hint. Only painting tells; 'bwlab analyze recommend' does it."
    )


def remarks(losses: Sequence[LossReport]) -> list[str]:
    """Return a line for each adapter that does not lower the loss on what is said to be its own pictures."""
    return [
        f"{one.adapter} does not surely lower the loss on these pictures ({one.base.value:.3f} without it, "
        f"{one.own.value:.3f} with it), as adapters do on what they were trained on: are they {one.adapter}'s "
        f"(--data-{one.adapter})? If not, the conflict score means nothing."
        for one in losses
        if one.doubtful
    ]


def caution() -> str:
    """Return how far blame is to be trusted."""
    return (
        f"In the study the block that gives most for its cost was the best to switch off in {100 * TOP_1:.0f} % of "
        f"pairs ({100 * CHANCE:.0f} % by chance): score what you change."
    )
