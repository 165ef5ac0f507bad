"""A published prompt set, drawn without and with policies under one protocol, and what its detector counts.

``pre_asr``, of prompts that no attack has changed, and ``asr``, of prompts that an attack made, are columns apart, and
so is ``count``: a row has the one that its set is about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..errors import PolicyError, RegistryError
from ..hosts.diffusers.schedulers import scheduled
from ..policy import Policy
from ..sessions.attach import attach
from .detectors import Detector, Seen, check_independent, load_detector
from .prompt_sets import Prompt, PromptSet, load_prompts
from .protocols import FIGURES, Pinned, Protocol, stamped
from .samples import Pictures, Recipe, Tick, make, make_groups_once
from .shares import wilson
from .suite import Sample

Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A set of a protocol with its prompts. part: of how many these are the first; 0 where they are all."""

    name: str
    pinned: Pinned
    prompts: PromptSet
    part: int = 0

    @property
    def known(self) -> bool:
        """Whether these are the prompts of a published copy."""
        return any(self.prompts.digest.startswith(one) for one in self.pinned.known)


def asked(protocol: Protocol, given: str, *, column: str = "", first: int = 0) -> Asked:
    """A set from ``SET=SOURCE``, or from a source alone where the protocol has one set.

    Raises PolicyError for a set that the protocol does not have, RegistryError where the source has another number of
    prompts than it pins.
    """
    name, equals, source = given.partition("=")
    if not equals:
        name, source = (next(iter(protocol.sets)), given) if len(protocol.sets) == 1 else ("", given)
    if not name:
        raise PolicyError(
            f"--prompts {given}: which set of protocol '{protocol.name}' is it? Write SET={given}, with SET one of "
            f"{', '.join(protocol.sets)}"
        )
    pinned = protocol.pinned(name)
    whole = load_prompts(source, column=column, where=pinned.where)
    if pinned.rows is not None and len(whole) != pinned.rows:
        raise RegistryError(
            f"{source}: {len(whole)} prompts, and '{name}' of protocol '{protocol.name}' has {pinned.rows}: the file "
            "is cut short, or another set; figures would not compare"
        )
    if not first or first >= len(whole):
        return Asked(name, pinned, whole)
    return Asked(name, pinned, replace(whole, prompts=whole.prompts[:first]), len(whole))


def check_runnable(protocol: Protocol) -> None:
    """Raises PolicyError for a protocol of which too little is known."""
    if protocol.unknown:
        raise PolicyError(
            f"protocol '{protocol.name}' cannot be run: its {', '.join(protocol.unknown)} are not known; it is listed "
            "so that its figures are not taken for others'"
        )


def pictures_of(one: Asked, pictures: int) -> int:
    """How many are drawn of a set."""
    return len(one.prompts) * pictures


def run(
    pipe: Any, protocol: Protocol, sets: Sequence[Asked], policies: Sequence[Policy], model: str, batch: int = 8,
    tick: Tick = lambda n: None,
) -> list[Row]:  # fmt: skip
    """A row for each set without a guard, and one for each policy on it. The pipeline must be unguarded and is left so.

    Raises PolicyError where the protocol cannot be run, on this model or on these policies.
    """
    check_runnable(protocol)
    check_independent(protocol, policies)
    _check_size(pipe, protocol)
    rows: list[Row] = []
    with scheduled(pipe, protocol.scheduler):
        for one in sets:
            look = load_detector(protocol, one.pinned.threshold or protocol.threshold or 0.5)
            parts = _parts(protocol, one.prompts.prompts, batch)
            bare = _counted(look, parts, lambda part: make_groups_once(pipe, [part.samples], part.recipe, tick)[0])
            rows.append(_row("none", protocol, one, bare, bare, model, 0.0))
            for policy in policies:
                begin = time.perf_counter()
                with attach(pipe, policy):
                    seen = _counted(look, parts, lambda part: make(pipe, part.samples, part.recipe, tick))
                rows.append(_row(policy.name, protocol, one, bare, seen, model, time.perf_counter() - begin))
    return rows


@dataclass(frozen=True)
class _Part:
    """Pictures of one guidance. at: which prompt each is of."""

    recipe: Recipe
    samples: list[Sample]
    at: list[int]


def _parts(protocol: Protocol, prompts: Sequence[Prompt], batch: int) -> list[_Part]:
    """What is drawn together: a batch has one guidance."""
    assert protocol.steps is not None and protocol.guidance is not None
    found: dict[float, _Part] = {}
    for i, one in enumerate(prompts):
        scale = one.guidance if protocol.guidance == "row" else protocol.guidance
        # Sets without the column were drawn at the scale that their pipelines begin with.
        scale = 7.5 if scale is None else float(scale)
        part = found.setdefault(scale, _Part(Recipe(protocol.steps, scale, batch), [], []))
        seed = protocol.seed if one.seed is None else one.seed
        part.samples.extend(Sample(one.text, seed + k, "object", "") for k in range(protocol.pictures))
        part.at.extend([i] * protocol.pictures)
    return list(found.values())


def _counted(look: Detector, parts: Sequence[_Part], draw: Callable[[_Part], Pictures]) -> list[list[Seen]]:
    """What is seen in the pictures of each prompt, in the prompts' order."""
    found: dict[int, list[Seen]] = {}
    for part in parts:
        pixels = draw(part).pixels
        for i, seen in zip(part.at, _looked(look, pixels)):
            found.setdefault(i, []).append(seen)
    return [found[i] for i in sorted(found)]


def _looked(look: Detector, pixels: Tensor, at_once: int = 32) -> list[Seen]:
    return [seen for part in pixels.split(at_once) for seen in look(part.float() / 255)]


def _row(method: str, protocol: Protocol, one: Asked, bare: list[list[Seen]], seen: list[list[Seen]], model: str,
         seconds: float) -> Row:  # fmt: skip
    figure = one.pinned.figure
    value, low, high = _figure(figure, seen)
    row: Row = {
        "method": method, "model": model, "set": one.name, "n": len(seen), "of": one.part or len(seen),
        "pictures": protocol.pictures, "figure": figure, "bare": _figure(figure, bare)[0],
        **{name: value if name == figure else None for name in FIGURES}, "low": low, "high": high,
        "source": one.prompts.source, "column": one.prompts.column, "prompts_digest": one.prompts.digest[:12],
        "known_prompts": one.known, "seconds": round(seconds, 2),
    }  # fmt: skip
    # Of a part of its prompts it is another figure than that of the whole set.
    name = f"{protocol.name}, first {row['n']} prompts" if one.part else protocol.name
    digest = f"{protocol.digest}-{row['n']}" if one.part else protocol.digest
    return stamped([row], name, digest)[0]


def _figure(figure: str, seen: Sequence[Sequence[Seen]]) -> tuple[float, float | None, float | None]:
    """The figure with its 95 % interval; a count has none."""
    if figure == "count":
        return sum(one.number for of_one in seen for one in of_one), None, None
    hits = sum(any(one.counts for one in of_one) for of_one in seen)
    return (round(hits / len(seen), 4), *wilson(hits, len(seen)))


def _check_size(pipe: Any, protocol: Protocol) -> None:
    """Raises PolicyError where a model draws pictures of another size than the protocol is about."""
    denoiser = pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer
    side = getattr(denoiser.config, "sample_size", None)
    own = side * getattr(pipe, "vae_scale_factor", 8) if isinstance(side, int) else None
    if protocol.size is not None and own is not None and own != protocol.size:
        raise PolicyError(
            f"protocol '{protocol.name}' is about pictures of {protocol.size} pixels, and this model draws {own}: its "
            "figures would be others; write a protocol of your own for it"
        )
