"""Finding: at which layers and tokens a model reads a name, and how far an edit there could lead it.

What a layer gives at a name's tokens is replaced by what it gives at the target's in the same template, without any
error: the most that an edit of the layers up to there could do at those tokens. How far what the model would say next
goes from what it says after the name to what it says after the target is

    led = 1 − KL(target ‖ replaced) / KL(target ‖ own),

summed over templates: 1 is the target's, 0 the name's. Beside it stands a change as large in a random direction. Meng,
Bau et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022, trace causes so; no input is noised here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.finder import Found, Search
from conceptguard.method import Settings

from ..neurons.blocks import feed_forward_of
from .read import led, placed, tokens_of

TOKENS = {"last": slice(-1, None), "all": slice(None)}  # as in making
WAYS = ("led", "random")
LEAST = 1e-6  # nats between what is said after both names
FACTS = ["{} was born in", "{} is known for", "{} lives in", "{} works as a", "The father of {} was", "{} wrote"]


class ROCRFindSettings(Settings):
    """Where it is looked.

    target: whom the name would be redirected to; default: the concept's replacement
    templates: what a name is put into, {}, and what ends where something of it would be told
    enough: from which share on a place is one that an edit can use
    """

    target: str = ""
    templates: list[str] = FACTS
    enough: float = Field(default=0.5, gt=0, le=1)


def find_places(search: Search) -> Found:
    """Rows of places: layer, tokens, ``led`` and ``random``, the best first. Raises PolicyError, BaseMismatch."""
    s, concept = search.settings, search.concept
    if concept is None:
        raise PolicyError("finding where rocr can redirect is about a concept: name it")
    target = s.target or concept.replacement.strip()
    if not target or target in concept.prompts:
        raise PolicyError("finding where rocr can redirect: give another name, --set target=NAME")
    if any("{}" not in one for one in s.templates) or not s.templates:
        raise PolicyError("finding where rocr can redirect: every template has a place for the name, {}")
    host: Any = search.host
    blocks = [block.down.rsplit(".mlp.", 1)[0] for block in feed_forward_of(host, [], "rocr")]
    pairs = [[tokens_of(host, *placed(template, which)) for which in (name, target)]
             for name in concept.prompts for template in s.templates]  # fmt: skip
    random, apart = torch.Generator().manual_seed(search.seed), 0.0
    left = {(at, tokens, way): 0.0 for at in range(len(blocks)) for tokens in TOKENS for way in WAYS}
    with torch.no_grad(), search.bar(len(pairs)) as tick:
        for step, ((ids, own), (other, theirs)) in enumerate(pairs):
            goal = _next(host, other)
            apart += _apart(goal, _next(host, ids))
            for at, block in enumerate(blocks):
                now, wanted = (host.read_inside(one, [], block)[1] for one in (ids, other))
                now, wanted = now[own], wanted[theirs][led(len(own), len(theirs))]
                noise = torch.randn(now.shape, generator=random).to(now)
                strayed = now + noise / noise.norm(dim=1, keepdim=True) * (wanted - now).norm(dim=1, keepdim=True)
                for (tokens, some), (way, states) in product(TOKENS.items(), zip(WAYS, (wanted, strayed))):
                    with _replaced(host, block, own[some], states[some]):
                        left[at, tokens, way] += _apart(goal, _next(host, ids))
            tick(step)
    if apart < LEAST:
        raise PolicyError("the model says the same after both names: give another target, or templates that ask more")
    gained = {place: 1 - lost / apart for place, lost in left.items()}
    places = sorted(product(range(len(blocks)), TOKENS), key=lambda place: -gained[place[0], place[1], "led"])
    rows = [
        {"layer": at, "tokens": tokens, **{way: round(gained[at, tokens, way], 4) + 0.0 for way in WAYS}}
        for at, tokens in places
    ]  # fmt: skip
    (layer, tokens), most = places[0], gained[places[0][0], places[0][1], "led"]
    usable = sum(gained[at, tokens, "led"] >= s.enough for at, tokens in places)
    told = f"an edit up to layer {layer} leads it by {most:.2f} with tokens={tokens}" if usable else (
        f"no edit at a name's own tokens leads it far (at most {most:.2f}): make it with tokens=after, and with "
        "forget= and retain=, for a classifier that opens it"
    )  # fmt: skip
    return Found(rows, told, {"led": round(most, 4), "places": usable, "of": len(rows)})


def _next(host: Any, ids: list[int]) -> Tensor:
    """log p of what comes after a text, [vocabulary]."""
    speaker = host.speaker()
    given = torch.tensor([ids], device=speaker.device)
    found: Tensor = speaker(given, torch.ones_like(given))[0, -1].float().log_softmax(-1)
    return found


def _apart(goal: Tensor, found: Tensor) -> float:
    return float(F.kl_div(found, goal, log_target=True, reduction="sum"))


@contextmanager
def _replaced(host: Any, block: str, where: list[int], states: Tensor) -> Iterator[None]:
    """Meanwhile a block gives these states [n, width] at these tokens."""

    def hook(module: Any, args: Any, out: Any) -> Any:
        whole = (out[0] if isinstance(out, tuple) else out).clone()
        whole[0, where] = states.to(whole)
        return (whole, *out[1:]) if isinstance(out, tuple) else whole

    handle = host.part(block).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
