"""What a CLIP of ComfyUI encodes, and which text an embedding is of.

A conditioning that reaches a sampler is a tensor: nothing says what was typed. Guards find out by encoding what might
have been, or remember what was encoded under them; only an embedding that is equal counts as that text's.
"""

from __future__ import annotations

import re
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...generation.conditioning import Encoded
from ..denoising.families import Family
from ..denoising.text_encoders import as_one

if TYPE_CHECKING:
    from ...protocols import ActiveGuard, DrawingSession

_KEPT = 256
Key = tuple[Any, ...]  # prompts, and as which version of a CLIP it encoded them


class Piece(str):
    """The words of one window of a longer text, as its tokens ``ids`` spell them."""

    ids: list[int]

    @classmethod
    def of(cls, tokenizer: Any, ids: list[int]) -> Piece:
        """tokenizer: a comfy SDTokenizer's own"""
        piece = cls(spelled(tokenizer, ids))
        piece.ids = ids
        return piece


@dataclass(frozen=True)
class Seen:
    """A text as it was encoded.

    embeds: [windows * tokens, width]; ids: of each window, without special tokens; None where a window has more than
    words in it (a textual inversion)
    pieces: what each encoder was given in each window, in the order of diffusers' components
    acted: the guards whose terms stood beside the encoders, see ``mark_of``
    """

    embeds: Tensor
    text: str
    ids: list[list[int]] | None
    pieces: list[tuple[str, ...]]
    acted: frozenset[str] = frozenset()

    def content(self, begins: bool) -> list[Tensor]:
        """The encodings of the text's own tokens, window by window, [tokens, width]."""
        size = len(self.embeds) // max(len(self.ids or ()), 1)
        windows = self.embeds.split(size)
        return [window[begins : begins + len(ids)] for window, ids in zip(windows, self.ids or ()) if ids]


def mark_of(guard: ActiveGuard) -> str:
    """A guard as every session of the same policy has it: Guard Encoder's and Guard Model's are two."""
    return guard.guard.model_dump_json()


_seen: weakref.WeakKeyDictionary[Any, OrderedDict[Key, Seen]] = weakref.WeakKeyDictionary()


class Texts:
    """The texts of one CLIP: encodes, remembers, recognises.

    clip: a comfy.sd.CLIP, with whatever LoRA and clip skip it has. All clones of one share what they remember.
    """

    def __init__(self, family: Family, clip: Any):
        self._family, self.clip = family, clip
        self._seen = _seen.setdefault(clip.cond_stage_model, OrderedDict())

    def _key_of(self, prompts: tuple[str, ...], under: object = None) -> Key:
        return prompts, self.clip.patcher.patches_uuid, self.clip.layer_idx, id(under)

    @property
    def keys(self) -> list[str]:
        """ComfyUI's short names of the encoders ("l", "g", "t5xxl"), in the order of diffusers' components."""
        found = list(self.clip.tokenize(""))
        return sorted(found, key=lambda key: (key not in ("l", "h"), key != "g"))

    @property
    def key(self) -> str:
        """The encoder whose tokens a text's ids are."""
        keys = self.keys
        return keys[-1] if not self._family.begins else keys[0]

    def tokens(self, text: str) -> list[list[int]] | None:
        """Token ids of each window, without special tokens; parentheses are no weights."""
        return [text.ids] if isinstance(text, Piece) else self.ids(self.clip.tokenize(_escaped(text)))

    def ids(self, tokens: dict[str, Any], key: str | None = None) -> list[list[int]] | None:
        """The same from what ``tokenize`` gave."""
        key = key or self.key
        own = self.tokenizer(key)
        end, pad = own.end_token, own.pad_token
        found = []
        for window in tokens[key]:
            row = [entry[0] for entry in window]
            if not all(isinstance(token, int) for token in row):
                return None
            row = row[own.tokens_start :]
            stop = next((i for i, token in enumerate(row) if token in (end, pad)), len(row))
            found.append(row[:stop])
        return found

    def tokenizer(self, key: str) -> Any:
        """ComfyUI's SDTokenizer for one encoder."""
        whole = self.clip.tokenizer
        return getattr(whole, f"clip_{key}", None) or getattr(whole, key)

    def of(self, clip: Any) -> Texts:
        """The same for a clone of this CLIP."""
        return self if clip is self.clip else Texts(self._family, clip)

    def said(self, tokens: dict[str, Any]) -> tuple[str, ...]:
        """What each encoder is given, from what ``tokenize`` gave; words as its tokens spell them."""
        whole = getattr(tokens, "text", None)
        own = None if whole is None else self.clip.tokenize(whole)
        found = []
        for key in self.keys:
            if own is not None and _alike(own[key], tokens[key]):
                found.append(str(whole))
            else:
                windows = self.ids(tokens, key) or []
                found.append(spelled(self.tokenizer(key).tokenizer, [i for w in windows for i in w]))
        return (*found, *[found[0]] * (3 - len(found)))

    def encode(self, texts: Sequence[str | tuple[str, ...]]) -> Encoded:
        """Texts as the denoiser sees them, one window each: embeds [rows, tokens, width]."""
        parts = [self._encode_one(text) for text in texts]
        pooled = [p for _, p, _ in parts if p is not None]
        embeds = torch.cat([cond for cond, _, _ in parts])
        return Encoded(embeds, [ids for _, _, ids in parts], torch.cat(pooled) if pooled else None)

    def _encode_one(self, text: str | tuple[str, ...]) -> tuple[Tensor, Tensor | None, list[int]]:
        given = text if isinstance(text, tuple) else (text,) * 3
        tokens = {key: self.clip.tokenize(_escaped(own))[key][:1] for key, own in zip(self.keys, given)}
        cond, pooled = self.clip.encode_from_tokens(tokens, return_pooled=True)
        whole = as_one(text) if isinstance(text, tuple) else text
        return cond, pooled, (self.tokens(whole) or [[]])[0]

    def read(self, texts: Sequence[str], at_once: int = 64) -> Encoded:
        """Texts of one window as gates read them, many in one pass: a CLIP takes any number of windows."""
        embeds, ids = [], []
        for i in range(0, len(texts), at_once):
            each = [self.clip.tokenize(_escaped(text)) for text in texts[i : i + at_once]]
            tokens = {key: [one[key][0] for one in each] for key in each[0]}
            cond = self.clip.encode_from_tokens(tokens)
            embeds.append(cond.reshape(len(each), -1, cond.shape[-1]))
            ids += self.ids(tokens) or []
        read = self._family.reading(torch.cat(embeds))
        return Encoded(read, [own[: read.shape[1] - 1] for own in ids])

    def remember(
        self,
        text: str,
        tokens: dict[str, Any],
        cond: Tensor,
        prompts: tuple[str, ...] | None = None,
        under: DrawingSession | None = None,
    ) -> Seen:
        """What a text was encoded to, [1, tokens, width]. under: the session whose terms were open meanwhile."""
        ids = self.ids(tokens)
        if ids is not None and self._family.readable is not None and len(ids) > 1:
            ids = None  # several encoders one behind the other: whose window is whose cannot be told
        given = prompts or (text,) * 3
        key = self._key_of(given, under)
        pieces = [given] if ids is None or len(ids) == 1 else self._pieces(tokens, len(ids))
        acted = frozenset() if under is None else frozenset(map(mark_of, under.methods_with_terms))
        seen = self._seen[key] = Seen(cond[0].detach().clone(), text, ids, pieces, acted)
        self._seen.move_to_end(key)
        while len(self._seen) > _KEPT:
            self._seen.popitem(last=False)
        return seen

    def _pieces(self, tokens: dict[str, Any], windows: int) -> list[tuple[str, ...]]:
        """What each encoder is given in each window, from what ``tokenize`` gave."""
        each = []
        for key in self.keys:
            own = [Piece.of(self.tokenizer(key).tokenizer, ids) for ids in self.ids(tokens, key) or []]
            each.append([*own, *[Piece.of(self.tokenizer(key).tokenizer, [])] * (windows - len(own))])
        return [(*pieces, *[pieces[0]] * (3 - len(pieces))) for pieces in zip(*each)]

    def try_texts(self, texts: Iterable[str]) -> None:
        """Encode what might have been encoded elsewhere."""
        for text in texts:
            if self._key_of((text,) * 3) not in self._seen:
                tokens = self.clip.tokenize(text)
                self.remember(text, tokens, self.clip.encode_from_tokens(tokens))

    def find(self, row: Tensor) -> list[Seen] | None:
        """Of which texts, one behind the other, an embedding [tokens, width] is; None where any of it is unknown."""
        found: list[Seen] = []
        at = 0
        known = sorted(self._seen.values(), key=lambda seen: -len(seen.embeds))
        while at < len(row):
            part = row[at:]
            fits = (s for s in known if len(s.embeds) <= len(part) and s.embeds.shape[1] == part.shape[1])
            seen = next((s for s in fits if torch.equal(s.embeds.to(part), part[: len(s.embeds)])), None)
            if seen is None or seen.ids is None:
                return None
            found.append(seen)
            at += len(seen.embeds)
        return found


def spelled(tokenizer: Any, ids: Sequence[int]) -> str:
    """Tokens as a reader knows them. tokenizer: of transformers, or ComfyUI's own around one of sentencepiece"""
    decode = tokenizer.decode if hasattr(tokenizer, "decode") else tokenizer.tokenizer.decode
    return str(decode(list(ids))).strip()


def _alike(one: Any, other: Any) -> bool:
    """Whether two lists of windows hold the same tokens; vectors among them are alike only if they are the same one."""
    rows = [[[entry[0] for entry in window] for window in windows] for windows in (one, other)]
    return len(rows[0]) == len(rows[1]) and all(
        len(a) == len(b) and all(x is y or (isinstance(x, int) and x == y) for x, y in zip(a, b)) for a, b in zip(*rows)
    )


def _escaped(text: str) -> str:
    """The text with its parentheses as such: unescaped ones are weights to ComfyUI."""
    return re.sub(r"(?<!\\)([()])", r"\\\1", text)
