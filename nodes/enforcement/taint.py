"""What the values in a graph were made from, whatever their type: all that is made of a picture carries its verdict.

A birth is a sampling's latents, or a picture that was looked at. What a node gives out carries the births of all that
it was given and of all within it, but for one case: a picture that was looked at as it stands carries its own alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

from torch import Tensor

from conceptguard.errors import Refused
from conceptguard.receipt import Receipt


class Held(Refused):
    """What would leave was not looked at, or cannot be."""


@dataclass(eq=False)
class Birth:
    """Where something that a policy looks at came into being.

    leaves: whether what is made of it may leave: of a picture that was looked at, yes; of latents, or of what a flagged
    picture was before it was closed, never, for nobody can tell how much of the picture it shows
    receipts: of the sampling or the look, then of whatever it was made from; of latents, also of looks at them decoded
    latents: as a sampling gave them; closed: whether they were flagged when decoded, None before they were
    vae: that came with the MODEL that drew them, if one did, and how many channels it draws in: by another VAE latents
    may look like nothing, and be decoded elsewhere
    """

    leaves: bool
    receipts: list[Receipt]
    latents: Tensor | None = None
    closed: bool | None = None
    vae: Any = None
    channels: int = 0

    def judge(self, closed: bool, look: Receipt) -> None:
        """Latents were looked at; what was closed once stays so."""
        if self.closed is None or (closed and not self.closed):
            self.closed = closed
            self.receipts.append(look)

    def gave(self, latents: Any) -> bool:
        """Whether these are its latents, unchanged."""
        own = self.latents
        same = isinstance(latents, Tensor) and own is not None and latents.shape == own.shape
        return same and bool((latents.to(own) == own).all())


class Values(list):  # type: ignore[type-arg]
    """One output of a node, as the executor hands it on and keeps it in its cache.

    clip: the CLIP that encoded it, or what it was drawn from; None for models
    vae: that came with the MODEL that is behind it, if one did
    """

    def __init__(self, values: Iterable[Any], births: Iterable[Birth], clip: Any, vae: Any):
        super().__init__(values)
        self.births, self.clip, self.vae = frozenset(births), clip, vae


@dataclass(eq=False)
class Run:
    """One prompt that runs.

    receipts: of what was sampled and looked at for it; shown: births of what it showed, from the cache too
    """

    visits: dict[str, Visit] = field(default_factory=dict)
    shown: set[Birth] = field(default_factory=set)
    receipts: list[Receipt] = field(default_factory=list)


@dataclass(eq=False)
class Visit:
    """One node that runs.

    links: its inputs in the graph; parent: the node that put it into the graph, if one did
    clip: what encoded its inputs; encoder: what encodes its outputs, the same unless it is given a CLIP
    vae: that came with its MODEL, if one did
    """

    run: Run
    node: str = ""
    kind: str = ""
    links: Mapping[str, Any] = field(default_factory=dict)
    parent: Visit | None = None
    births: set[Birth] = field(default_factory=set)
    clip: Any = None
    encoder: Any = None
    vae: Any = None
    decoded: list[Tensor] = field(default_factory=list)

    def bear(self, leaves: bool, receipt: Receipt, latents: Tensor | None = None) -> Birth:
        """Something was sampled or looked at within this node."""
        before = {id(r): r for birth in self.births for r in birth.receipts if r is not receipt}
        birth = Birth(leaves, [receipt, *before.values()], latents)
        self.births.add(birth)
        self.run.receipts.append(receipt)
        return birth

    def births_of(self, value: Any) -> Iterable[Birth]:
        """What one value that this node gives out was made from."""
        own = birth_of(value)
        return self.births if own is None else (own,)


run: ContextVar[Run] = ContextVar("run")
visit: ContextVar[Visit] = ContextVar("visit")


def here() -> Visit:
    """The node that runs. Raises Held in a thread that a node started by itself: its pictures would be nobody's."""
    found = visit.get(None)
    if found is None:
        raise Held("a node draws in a thread of its own, where this server's policy cannot follow it")
    return found


def is_picture(value: Any) -> bool:
    """Whether a value is an IMAGE, [n, height, width, channels], or a video's, which has its frames behind n."""
    shaped = isinstance(value, Tensor) and value.ndim in (4, 5) and value.shape[-1] in (1, 3, 4)
    return shaped and value.is_floating_point()


def mark(picture: Tensor, birth: Birth) -> Tensor:
    """The picture, of which is known from now on that it was looked at; of what is computed from it, it is not."""
    picture.conceptguard_birth = ref(picture), birth  # type: ignore[attr-defined]
    return picture


def birth_of(value: Any) -> Birth | None:
    """Of a picture that was looked at as it stands, and not of a copy that took its attributes along."""
    own, birth = getattr(value, "conceptguard_birth", (None, None)) if isinstance(value, Tensor) else (None, None)
    return birth if own is not None and own() is value else None
