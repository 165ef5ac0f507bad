"""What an adapter's tokens are to be for a picture: states of its caption's words, as the text encoder has them.

IP-Adapter's projection ends in a layer norm, as the text encoder does. With the encoder's own gains, what a linear map
finds in front of it is a state of a text; where the map finds nothing, it is the state that every text begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..emoji_sd.models import EOS
from ..emoji_sd.scenes import Scene
from ..emoji_sd.text import encode

TOKENS = 4  # the beginning, the thing, the style, and what stands behind the last word
BEHIND = 20  # positions behind the end, whose mean is taken: each says the whole caption


class States:
    """A text encoder's states, and the same in front of its last layer norm's gains. start: of every text, [width]"""

    @torch.no_grad()
    def __init__(self, pipe: Any):
        self.tokenizer, self.encoder = pipe.tokenizer, pipe.text_encoder
        inner = getattr(self.encoder, "text_model", self.encoder)
        self.gain, self.bias = (it.detach() for it in (inner.final_layer_norm.weight, inner.final_layer_norm.bias))
        self.nothing = self.of([""])[1]  # [1, positions, width]
        self.start = self.nothing[0, 0]

    @torch.no_grad()
    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids [n, positions] and states [n, positions, width]."""
        ids = encode(self.tokenizer, list(texts))
        return ids, self.encoder(ids).last_hidden_state

    def bare(self, states: Tensor) -> Tensor:
        """In front of the gains: of mean 0 and variance 1."""
        return (states - self.bias) / self.gain

    def normed(self, found: Tensor) -> Tensor:
        """Anything [..., width] as states in front of the gains."""
        return torch.nn.functional.layer_norm(found, found.shape[-1:])

    def one(self) -> Tensor:
        """The direction [width] along which every state is 1: what a layer norm leaves has no mean."""
        return (1 / self.gain) / (self.bias / self.gain).sum()

    def place(self, ids: Tensor, words: str) -> int:
        """Where the last piece of some words stands in a text's ids [positions]. Raises ValueError without them."""
        wanted, found = self.tokenizer(words).input_ids[1:-1], ids.tolist()
        for at in range(len(found)):
            if found[at : at + len(wanted)] == wanted:
                return at + len(wanted) - 1
        raise ValueError(f"{words!r} is not in this text")

    @torch.no_grad()
    def tokens(self, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        """Of scenes of one thing each: what the tokens are to be, [n, 4, width], and the captions' states.

        The style's comes from a text without the thing, so that what is to be found is a sum of both.
        """
        styles = {}
        for name in {scene.style for scene in scenes}:
            (ids,), (states,) = self.of([f"an emoji, {name} style"])
            styles[name] = states[self.place(ids, name)]
        all_ids, all_states = self.of([caption(scene) for scene in scenes])
        found = []
        for scene, ids, states in zip(scenes, all_ids, all_states, strict=True):
            thing = states[self.place(ids, scene.things[0].object.name)]
            end = ids.tolist().index(EOS)
            behind = states[end + 1 : end + 1 + BEHIND].mean(0)
            found.append(torch.stack([self.start, thing, styles[scene.style], behind]))
        return torch.stack(found), all_states


def caption(scene: Scene) -> str:
    """All that is to be seen in a scene of one thing, the thing first."""
    (thing,) = scene.things
    article, name = thing.object.thing.split(" ")[0], thing.object.name
    for said, told in ((thing.colour, thing.colour), (thing.small, "small"), (thing.turned, "upside down")):
        name = f"{told} {name}" if said else name
    if article in ("a", "an"):
        article = "an" if name[0] in "aeiou" else "a"
    ground = f", {scene.tint} background" if scene.tint else ""
    return f"{article} {name}, {scene.style} style{ground}"
