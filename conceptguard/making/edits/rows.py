"""Which rows of an encoding are a concept's: what is erased, what it is guided by, and what stays.

A causal encoder carries a concept from its last token on to the end of padding. One that sees both ways, as T5 does,
has it in each of the concept's own tokens as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from ...errors import PolicyError
from ...runtime.once import once
from ..templates import before, fill, through

if TYPE_CHECKING:
    from ...concept import Concept
    from ...generation.conditioning import Encoded
    from ...host import Host
    from ...protocols import TextEncoder

Kind = Literal["states", "pooled"]
Tokens = Literal["tail", "last"]


class Rows(NamedTuple):
    """Encodings as layers receive them: erased and guide [rows, d] in pairs, preserved [kept rows, d]. Of token states
    only the channels that say anything, see ``channels``."""

    erased: Tensor
    guide: Tensor
    preserved: Tensor


class Wording(NamedTuple):
    """One text of a concept: a template, what is erased in it, and what stands there instead."""

    template: str
    prompt: str
    guide: str

    @property
    def own(self) -> str:
        """The text with the concept."""
        return fill(self.template, self.prompt)

    @property
    def guided(self) -> str:
        """The text with its guide."""
        return fill(self.template, self.guide)


class Span(NamedTuple):
    """Where words stand among the states of a text. Without words, ``first`` is behind ``last``, the token before."""

    first: int
    last: int


def wordings(concept: Concept, templates: Sequence[str]) -> list[Wording]:
    """Every prompt of a concept in every template."""
    return [Wording(t, p, concept.replacement) for p in concept.prompts for t in templates]


def read_rows(host: Host, words: Sequence[Wording], kept: Sequence[str], tokens: Tokens) -> dict[Kind, Rows]:
    """The rows of every stream: of token states those that ``tokens`` says, of pooled vectors the whole.

    tokens: "tail", from the concept's last token to the end of padding, and all of its own where the encoder sees both
    ways; "last", its last token alone. Edits of whole tails reach the padding that the empty prompt has too, so that it
    is always held. Raises PolicyError for a text that an encoder cuts, has no tokens for, or cannot tell from one that
    is to stay.
    """
    held = list(dict.fromkeys(["", *kept] if tokens == "tail" else kept))
    for encoder in host.encoders():
        check_texts(encoder, words, kept)
    own, guided, stays = ([Place(text) for text in texts] for texts in (
        [w.own for w in words], [w.guided for w in words], held))  # fmt: skip
    empty, said = sample(host), channels(host)
    erased: list[Place] = []
    guide: list[Place] = []
    preserved: list[Place] = []
    for encoder in runs_of(host):
        every = torch.arange(empty.embeds.shape[1])[encoder.tokens]
        spans = zip(_spans(encoder, words), _spans(encoder, [w._replace(prompt=w.guide) for w in words]))
        for word, (span, other) in zip(words, spans):
            here, there = paired(len(every), span, other, tokens, causal=encoder.begins)
            erased.append(Place(word.own, every[here]))
            guide.append(Place(word.guided, every[there]))
        for text, ids in zip(held, encoder.ids(held)):
            preserved.append(Place(text, kept_rows(every, _last(encoder, len(ids)), tokens)))
    read = read_places(host, [*erased, *guide, *preserved, *own, *guided, *stays])
    states = [together(read, some, empty.embeds[0][:, said]) for some in (erased, guide, preserved)]
    shown = states[0].any(1)  # zeros, as Wan has them behind a text, can be mapped to nothing
    found: dict[Kind, Rows] = {"states": Rows(states[0][shown], states[1][shown], states[2])}
    if empty.pooled is not None:
        found["pooled"] = Rows(*(together(read, some, empty.pooled) for some in (own, guided, stays)))
    return found


def channels(host: Host) -> Tensor:
    """Which channels of token states say anything, indices [d]: Stable Diffusion 3 pads what CLIP says to 4,096, and
    zeros would make squares of that width."""
    return sample(host).embeds.any(0).any(0).nonzero()[:, 0]


def sample(host: Host) -> Encoded:
    """A text without words and one of some, as wide and long as any: asked once while many concepts are read."""
    return once(host, "sample", lambda: host.encode(["", "a photograph"]))


class Place:
    """Rows of a text's encoding: its token states at some positions, or without these its pooled vector."""

    def __init__(self, text: str, at: Tensor | None = None):
        self.text, self.at = text, at


def read_places(host: Host, places: Sequence[Place]) -> dict[Place, Tensor]:
    """What stands at each place, [rows, d], see ``channels``.

    All states of many texts at a width of 4,096 would fill a machine's memory: of each portion that is encoded, only
    what is asked for is kept.
    """
    asked: dict[str, list[Place]] = {}
    for place in places:
        asked.setdefault(place.text, []).append(place)
    found, texts, said = {}, list(asked), channels(host)
    for portion in (texts[i : i + 64] for i in range(0, len(texts), 64)):
        encoded = host.encode(portion)
        for i, text in enumerate(portion):
            for place in asked[text]:
                if place.at is not None:
                    found[place] = encoded.embeds[i, place.at.to(said.device)][:, said]
                elif encoded.pooled is not None:
                    found[place] = encoded.pooled[[i]]
    return found


def together(read: dict[Place, Tensor], places: Sequence[Place], like: Tensor) -> Tensor:
    """The rows of all of them, one below the other; as wide as ``like`` where there are none."""
    return torch.cat([like[:0], *(read[place] for place in places)])


def paired(length: int, own: Span, guide: Span, tokens: Tokens, causal: bool) -> tuple[Tensor, Tensor]:
    """Which positions of a text are erased, and by which ones of the guide's text; the ends of both stand at each
    other. length: of both texts, padding included.
    """
    start = own.last if causal or tokens == "last" else own.first
    here = torch.arange(max(start, 0), length if tokens == "tail" else own.last + 1)
    there = here + guide.last - own.last
    inside = there < length
    return here[inside], there[inside].clamp(min=max(min(guide), 0))


def kept_rows(states: Tensor, last: int, tokens: Tokens) -> Tensor:
    """Of a text that must stay [tokens, ...], all rows, or only its last token's."""
    return states if tokens == "tail" else states[last : last + 1]


def runs_of(host: Host) -> list[TextEncoder]:
    """One encoder for each run of positions: those side by side cut a text alike."""
    found: dict[int, TextEncoder] = {}
    for encoder in host.encoders():
        if encoder.width is not None:
            found.setdefault(encoder.tokens.start or 0, encoder)
    return list(found.values())


def _last(encoder: TextEncoder, count: int) -> int:
    """Where the last of so many tokens stands; without any, the begin token, or the end token where none begins."""
    return count if encoder.begins else max(count - 1, 0)


def _spans(encoder: TextEncoder, words: Sequence[Wording]) -> list[Span]:
    heads = encoder.ids([before(w.template) for w in words])
    wholes = encoder.ids([through(w.template, w.prompt) for w in words])
    return [Span(len(h) + encoder.begins, len(w) - (not encoder.begins)) for h, w in zip(heads, wholes)]


def check_texts(encoder: TextEncoder, words: Sequence[Wording], kept: Sequence[str]) -> None:
    """Raises PolicyError for a text that the encoder cuts, has no tokens for, or cannot tell from one that is kept."""
    texts = [t for w in words for t in (w.own, w.guided)] + list(kept)
    for text, ids in zip(texts, encoder.ids(texts, whole=True)):
        if len(ids) > encoder.window:
            raise PolicyError(
                f"prompt '{text[:60]}...' fills the encoder's window of {encoder.window} tokens: shorten it"
            )
    stays = dict(zip(map(tuple, encoder.ids(list(kept))), kept))
    prompts = list(dict.fromkeys(w.prompt for w in words))
    for prompt, ids in zip(prompts, encoder.ids([fill("{}", prompt) for prompt in prompts])):
        if not ids:
            raise PolicyError(
                f"the prompt {prompt!r} has no tokens to {encoder.name}: say in other words what to erase"
            )
    for word, ids in zip(words, encoder.ids([w.own for w in words])):
        if tuple(ids) in stays:
            raise PolicyError(
                f"'{word.own}' is to be erased and '{stays[tuple(ids)]}' to be kept, and {encoder.name} reads the same "
                "tokens in both: take one of them out"
            )
