"""The text encoders of a ComfyUI CLIP one by one, as guards that read a prompt token by token ask them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..denoising.families import EncoderPlace
from ..denoising.text_encoders import TextEncoder
from .call import closed
from .text import Piece, Texts, spelled

_AT_ONCE = 256  # texts
Answer = tuple[Tensor | None, Tensor | None]


class ComfyEncoder(TextEncoder):
    """One text encoder of a CLIP, with whatever LoRA and clip skip that has.

    module: a comfy SDClipModel; key: ComfyUI's short name of it; at, pooled_at: where its states and its pooled vector
    begin in an embedding
    """

    def __init__(self, host: Any, texts: Texts, module: Any, key: str, place: EncoderPlace, at: int, pooled_at: int):
        self.name, self.number, self._place, self._host = place.name, place.number, place, host
        self._texts, self._key = texts, key
        self.module: Any = module
        self._own = texts.tokenizer(key)
        self.tokenizer = self._own.tokenizer
        self.begins = bool(self._own.tokens_start)
        self.window = host.window if not self.begins else int(module.max_length) - 2
        self.hidden = hidden = int(module.transformer.get_input_embeddings().weight.shape[1])
        self.tokens = slice(place.start, host.family.readable if place.start == 0 else None)
        self.width = slice(at, at + hidden) if place.states else None
        self.pooled = slice(pooled_at, pooled_at + hidden) if place.pooled else None

    def sees(self, positions: int) -> bool:
        """T5 reads texts of any length in ComfyUI, padded to a least one that does not depend on the call."""
        if self.begins or positions <= self.window + 1:
            return False
        self.window = positions - 1
        return True

    def ids(self, texts: Sequence[str], whole: bool = False) -> list[list[int]]:
        """Token ids as ComfyUI cuts a prompt, weights in parentheses aside."""
        found = [text.ids if isinstance(text, Piece) else self._tokenized(text) for text in texts]
        return [ids[: None if whole else self.window] for ids in found]

    def _tokenized(self, text: str) -> list[int]:
        windows = self._texts.ids(self._texts.clip.tokenize(text), self._key) or [[]]
        return [token for window in windows for token in window]

    def words(self, ids: Sequence[int]) -> list[str]:
        """Each token as a reader knows it."""
        return [spelled(self.tokenizer, [i]) for i in ids]

    @property
    def depth(self) -> int:
        """How many of its layers the denoiser hears: what is changed behind them has no effect."""
        self._ready()
        layers = len(self._layers())
        if self.module.layer != "hidden":
            return layers
        return int(self.module.layer_idx) % layers + 1

    @torch.no_grad()
    def encode(self, ids: Sequence[Sequence[int]], size: int = 0) -> Answer:
        """Token ids, none longer than ``window`` -> (states [rows, longest + special tokens, width], pooled).

        size: of no effect, since texts are padded as ComfyUI pads them
        """
        longest = max(map(len, ids))
        if longest > self.window:
            raise ValueError(f"{longest} tokens do not fit into {self.name}'s window of {self.window}")
        states, pooled = self._ask(ids)
        return None if states is None else states[:, : longest + 1 + self.begins], pooled

    @torch.no_grad()
    def through(self, ids: Sequence[Sequence[int]], layer: int, change: Callable[[Tensor], Tensor]) -> Answer:
        """See ``TextEncoder.through``."""

        def changed(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return change(output)

        handle = self._layers()[layer].register_forward_hook(changed)
        try:
            return self._ask(ids)
        finally:
            handle.remove()

    def _ask(self, ids: Sequence[Sequence[int]]) -> Answer:
        """Padded as ComfyUI pads: CLIP to its window, T5, which sees its padding, to a least length."""
        self._ready()
        head = [self._own.start_token] if self.begins else []
        rows = [[*head, *row, self._own.end_token] for row in ids]
        least = len(self._texts.clip.tokenize("")[self._key][0])
        padded = [row + [self._own.pad_token] * (least - len(row)) for row in rows]
        found: list[tuple[Tensor, Tensor | None]] = [(torch.empty(0), None)] * len(rows)
        with closed(self._host):
            for length in sorted(set(map(len, padded))):
                mine = [i for i, row in enumerate(padded) if len(row) == length]
                for start in range(0, len(mine), _AT_ONCE):
                    part = mine[start : start + _AT_ONCE]
                    states, pooled = self.module([padded[i] for i in part])[:2]
                    for n, i in enumerate(part):
                        found[i] = states[n], None if pooled is None else pooled[n]
        pools = [pooled for _, pooled in found if pooled is not None]
        return (
            None if self.width is None else nn.utils.rnn.pad_sequence([s for s, _ in found], batch_first=True),
            torch.stack(pools) if pools and self.pooled is not None else None,
        )

    def _ready(self) -> None:
        """Weights and options as this CLIP has them: all clones of one share a module."""
        clip = self._texts.clip
        clip.cond_stage_model.reset_clip_options()
        if clip.layer_idx is not None:
            clip.cond_stage_model.set_clip_options({"layer": clip.layer_idx})
        patcher, here = clip.patcher, clip.cond_stage_model.current_weight_patches_uuid
        if here != patcher.patches_uuid and (patcher.patches or here is not None):
            clip.load_model()
