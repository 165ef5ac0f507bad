"""What the text encoders of a pipeline make of texts: as the denoiser sees them, as gates read them, and as numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import SessionError
from ...generation.conditioning import Encoded
from ...host import Host
from ...registry.cache import cache_folder
from ...runtime.bank import running
from ...runtime.encodings import EncodingCache, encoding_cache_of
from ...runtime.once import once
from ..denoising.families import Family
from ..denoising.text_encoders import TextEncoder, as_one, is_clip, text_encoders
from . import prompts
from .encoding_options import defaults_of, of_negatives
from .learnt_words import LearntWords, as_encoded, learnt_ids

if TYPE_CHECKING:
    from ...protocols import DrawingSession
    from .encoding_options import Options

SHORT = 8  # positions; texts are read in multiples of it
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class ReadingHost(Host):
    """The part of a pipeline's host that reads: it calls the pipeline's own ``encode_prompt``, and changes nothing."""

    def __init__(self, pipe: Any, family: Family, encode_prompt: Callable[..., Any]):
        super().__init__(pipe)
        self.pipe = pipe
        self.family = family
        self.name = f"diffusers {type(pipe).__name__}"
        self.denoiser_name = family.denoiser
        self.model: nn.Module = getattr(pipe, self.denoiser_name)
        self._no_memory = prompts.Memory(self._nothing)
        self.learnt = LearntWords(pipe)
        self._encode_prompt = encode_prompt
        takes = inspect.signature(encode_prompt).parameters
        self._defaults = defaults_of(encode_prompt)
        # Of the several prompts those that it knows; one row a text, and no guidance where it can be turned off.
        self._prompts = [name for name in prompts.TYPED if name in takes]
        plain = {
            "num_images_per_prompt": 1, "do_classifier_free_guidance": False, "prepare_unconditional_embeds": False,
        }  # fmt: skip
        self._plainly = {name: value for name, value in plain.items() if name in takes}

    @property
    def _memory(self) -> prompts.Memory:
        """Of the session that is at work; here there is none."""
        return self._no_memory

    def components(self) -> dict[str, nn.Module]:
        """The modules that guards may reach, by name."""
        found = {self.denoiser_name: self.model}
        found.update({n: m for n in ENCODERS if isinstance(m := getattr(self.pipe, n, None), nn.Module)})
        return found

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where the pipeline runs, also under offload."""
        return once(  # type: ignore[return-value]
            self.pipe, "device, dtype", lambda: (self.pipe._execution_device, self.model.dtype), place=True
        )

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str | tuple[str, ...]],
        length: int | None = None,
        options: Options | None = None,
        under: DrawingSession | None = None,
    ) -> Encoded:
        """Texts as the denoiser sees them: embeds [rows, tokens, width], ids without special tokens.

        texts: one for all encoders, or one for each, as in ``Conditions.prompts``
        length: as ``max_sequence_length``; options: of ``encode_prompt``, by default what the running call gave
        under: the session whose terms act in the text encoders; none's, by default
        """
        count = len(prompts.TYPED)
        columns = list(zip(*(t if isinstance(t, tuple) else (t,) * count for t in texts)))
        given: dict[str, Any] = {
            name: list(column) for name, column in zip(prompts.TYPED, columns) if name in self._prompts
        }
        given |= self._memory.options if options is None else options
        if length is not None:
            given["max_sequence_length"] = length
        token = running.set(under or self)  # no session's terms act on what a gate is measured by
        try:
            out = self._encode_prompt(**given, device=self.device_dtype()[0], **self._plainly)
        except (TypeError, AttributeError, ValueError) as error:
            if (why := self._unreadable()) is not None:
                raise why from error
            raise
        finally:
            running.reset(token)
        by_role = dict(zip(self.family.encoded, out))
        whole = [as_one(t) if isinstance(t, tuple) else t for t in texts]
        return Encoded(by_role["embeds"], self.tokens(whole), by_role.get("pooled"))

    def encode_negative(self, texts: Sequence[str | tuple[str, ...]], under: DrawingSession | None = None) -> Encoded:
        """The same as this pipeline encodes negative prompts."""
        return self.encode(texts, options=of_negatives(self._memory.options), under=under)

    @property
    def encoding(self) -> Hashable:
        """The options of ``encode_prompt`` that the running call gave."""
        return tuple(sorted((name, str(value)) for name, value in self._memory.options.items()))

    def lengthened(self, embeds: Tensor, tokens: int) -> Tensor:
        """As of every host; where prompts are windows of CLIP side by side, windows without words follow."""
        missing = tokens - embeds.shape[1]
        if missing <= 0 or (empty := self._nothing()) is None:
            return super().lengthened(embeds, tokens)
        nothing = empty.embeds.to(embeds)
        more = nothing.repeat(1, -(-missing // nothing.shape[1]), 1)[:, :missing]
        return torch.cat([embeds, more.expand(len(embeds), -1, -1)], 1)

    def _nothing(self) -> Encoded | None:
        """What no words are encoded to, as a negative prompt; None where a prompt is not windows of CLIP alone, or
        there is no encoder."""
        encoders = set(ENCODERS) & set(self.components())
        if not self.family.begins or self.family.readable is not None or not encoders:
            return None
        return once(self.pipe, ("nothing", self.encoding), lambda: self.encode_negative([""]))  # type: ignore[return-value]

    def as_encoded(self, texts: Sequence[str], tokenizer: Any) -> list[str]:
        """Texts as this pipeline gives them to a tokenizer."""
        return as_encoded(self.pipe, texts, tokenizer)

    @property
    def clip_skip(self) -> int:
        """How many more of CLIP's last layers the running call leaves out."""
        return int(self._memory.options.get("clip_skip") or 0)

    def read(self, texts: list[str]) -> Encoded:
        """Texts as gates read them: a begin token, then the text's own, in one encoder's space."""
        encoded = self.encode(texts, options={})
        embeds = self.family.reading(encoded.embeds)
        return Encoded(embeds, [ids[: embeds.shape[1] - 1] for ids in encoded.ids])

    def read_short(self, texts: list[str]) -> Encoded:
        """The same without most of the padding, where the encoders are causal and never look at it: a seventh of the
        work for texts of a few words. What a text reads as does not depend on those beside it."""
        known = all(is_clip(part) for name, part in self.components().items() if name in ENCODERS)
        causal = known and self.denoiser_name == "unet" and not self.clip_skip
        encoders = [one for one in self.encoders() if one.width] if causal else []
        if not encoders or not all(one.begins and one.padded is None for one in encoders):
            return self.read(texts)
        ids = self.tokens(texts)
        sizes = [min(-(-(len(row) + 2) // SHORT) * SHORT, self.window + 2) for row in ids]
        found: list[Tensor] = [torch.empty(0)] * len(texts)
        for size in sorted(set(sizes)):
            rows = [i for i, own in enumerate(sizes) if own == size]
            parts = [one.encode(self._ids(one, texts, ids, rows), size)[0] for one in encoders]
            for i, own in zip(rows, torch.cat(parts, -1)):  # type: ignore[arg-type]
                found[i] = own
        return Encoded(torch.nn.utils.rnn.pad_sequence(found, batch_first=True), ids)

    def _ids(self, encoder: TextEncoder, texts: list[str], known: list[list[int]], rows: list[int]) -> list[list[int]]:
        """The ids that an encoder is given for some texts; known: those of the tokenizer that gates go by"""
        if encoder.tokenizer is self._tokenizer():
            return [known[i][: encoder.window] for i in rows]
        return encoder.ids([texts[i] for i in rows])

    def encoding_cache(self) -> EncodingCache:
        """Concept prompts that this pipeline's encoder has read, for this session or an earlier one."""
        encoders = [part for name, part in self.components().items() if name in ENCODERS]
        if not encoders:
            return EncodingCache()
        ask = partial(encoding_cache_of, encoders, "prompt", self.read, self.tokens, self.read_short, cache_folder())
        return once(encoders[0], "encodings", ask)

    def tokens(self, texts: list[str], whole: bool = False) -> list[list[int]]:
        """Token ids without begin, end and padding, cut at the encoder's window unless ``whole``."""
        tokenizer = self._tokenizer()
        limit = None if whole else self.window
        found = _whole_ids(tokenizer, self.as_encoded(texts, tokenizer))
        if not self.learnt.any():
            return [ids[:limit] for ids in found]
        encoder = self.family.tokenizer.replace("tokenizer", "text_encoder")
        return [self.learnt.mark(ids[:limit], encoder, text) for ids, text in zip(found, texts)]

    @property
    def window(self) -> int:
        """How many tokens of a text count."""
        return self.family.window or int(self._tokenizer().model_max_length) - 2

    def _tokenizer(self) -> Any:
        found = getattr(self.pipe, self.family.tokenizer, None) or getattr(self.pipe, "tokenizer_2", None)
        if found is None:
            raise self._unreadable() or SessionError(f"{self.name} has no {self.family.tokenizer}: load it with one")
        return found

    def _unreadable(self) -> SessionError | None:
        """The error for a text that the encoders which are left cannot encode; None where all are there."""
        missing = [place.name for place in self.family.encoders if getattr(self.pipe, place.name, None) is None]
        if not missing:
            return None
        return SessionError(
            f"{self.name} was loaded without {' and '.join(missing)}, by which guards read what they are about: attach "
            "the policy to a pipeline that has its text encoders, and give that one the embeddings; or use guards that "
            "read no text (gate: always, or those that look at pictures)"
        )

    def encoders(self) -> list[TextEncoder]:
        """The text encoders one by one, each with its own tokens and its part of an embedding."""
        return text_encoders(self.pipe, self, self.family)


def _whole_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """A tokenizer's own ids of texts. While a policy is attached, or a generation lasts, none is cut twice: how long a
    concept's prompts are is asked, and then whether they are still cut as when they were read."""
    known: dict[str, list[int]] = once(tokenizer, ("ids", learnt_ids(tokenizer)), dict)
    new = [text for text in dict.fromkeys(texts) if text not in known]
    if new:
        # verbose: what is longer than the window is our business, not a warning's
        found = tokenizer(new, add_special_tokens=False, truncation=False, verbose=False).input_ids
        known.update(zip(new, found))
    return [known[text] for text in texts]
