"""A pipeline's text encoders one by one: what each is asked, and where its answer stands in what the denoiser is given.

A denoiser's conditioning is the states of several encoders side by side, one behind the other, or in one pooled vector.
Guards that read a prompt token by token take it apart by this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import GuardError, SessionError
from ...runtime.bank import running
from ...runtime.frozen import frozen
from .families import EncoderPlace, Family

_POSITIONS = 2**14  # per call: 60 prompts of ordinary length, each with every word masked; bounded memory for more


class TextEncoder:
    """One text encoder of a pipeline.

    number: which of the prompts it reads
    begins: whether a begin token stands before the text's own, as in CLIP; T5 has none
    tokens, width: which part of an embedding [rows, tokens, width] is its states; None where it gives none
    pooled: which part of a pooled embedding [rows, width] is of it; None where it gives none
    padded: how many positions it sees, padding included; None where padding makes no difference, see ``sees``
    hidden: how wide its own states are
    """

    def __init__(self, pipe: Any, host: Any, place: EncoderPlace, at: int, pooled_at: int):
        self.name, self.number, self._place, self._host = place.name, place.number, place, host
        self.module: nn.Module = getattr(pipe, place.name)
        self.tokenizer = getattr(pipe, place.name.replace("text_encoder", "tokenizer"))
        config: Any = self.module.config
        self.begins = is_clip(self.module)
        if not self.begins and not _is(self.module, "T5"):
            raise SessionError(
                f"{place.name} of {host.name} is a {type(self.module).__name__}, and a guard of this policy reads "
                "prompts token by token, which it knows of CLIP and T5: use a guard that acts on noise predictions"
            )
        self.window = host.family.window or int(self.tokenizer.model_max_length) - 2
        if self.begins:
            self.window = min(self.window, int(self.tokenizer.model_max_length) - 2)
        self._window, self.padded, self._skipped = self.window, place.padded, 0
        self.hidden = hidden = int(config.hidden_size)
        self.tokens = slice(place.start, host.family.readable if place.start == 0 else None)
        self.width = slice(at, at + hidden) if place.states else None
        projected = "Projection" in type(self.module).__name__
        size = int(config.projection_dim) if projected else hidden
        self.pooled = slice(pooled_at, pooled_at + size) if place.pooled else None

    def sees(self, positions: int) -> bool:
        """A call pads its texts to so many positions, and cuts them there. Whether the encoder then says anything else
        than before: only one that sees the padding does, and one of which the call skips other layers."""
        before, self._skipped = self._skipped, self._skip
        if self.padded in (None, positions):
            return before != self._skipped
        self.padded, self.window = positions, min(self._window, positions - 1 - self.begins)
        return True

    def ids(self, texts: Sequence[str], whole: bool = False) -> list[list[int]]:
        """Token ids without begin, end and padding, cut at the window unless ``whole``."""
        # verbose: what is longer than the window is our business, not a warning's
        options = {"add_special_tokens": False, "truncation": False, "verbose": False}
        found = self.tokenizer(self._host.as_encoded(texts, self.tokenizer), **options).input_ids if texts else []
        return [ids[: None if whole else self.window] for ids in found]

    def words(self, ids: Sequence[int]) -> list[str]:
        """Each token as a reader knows it."""
        return [self.tokenizer.decode([i]).strip() for i in ids]

    def lexicon(self) -> dict[str, int]:
        """Words of lower-case letters that are one token each, with it. Pieces of longer words are none."""
        tokens = enumerate(self.tokenizer.convert_ids_to_tokens(range(len(self.vocabulary))))
        whole = {word: i for i, token in tokens if (word := token.removesuffix("</w>").removeprefix("\u2581")) != token}
        return {word: i for word, i in whole.items() if re.fullmatch("[a-z]{3,}", word)}

    def positions(self, text_positions: Sequence[int]) -> list[int]:
        """Where the n-th tokens of a text stand among its states."""
        return [i + self.begins for i in text_positions]

    def length(self, ids: Sequence[int]) -> int:
        """How many positions a text takes with its begin and end tokens."""
        return len(ids) + 1 + self.begins

    @torch.no_grad()
    def encode(self, ids: Sequence[Sequence[int]], size: int = 0) -> tuple[Tensor | None, Tensor | None]:
        """Token ids, none longer than ``window`` -> (states [rows, longest + special tokens, width], pooled).

        size: how many positions the encoder is given at least; by default as many as the longest text needs. What
        follows a text's end token is padding, which a state of the text sees where the pipeline has it so, see
        ``padded``. ValueError for longer ones.
        """
        longest = max(*map(len, ids), size - 1 - self.begins)
        if longest > self.window:
            raise ValueError(f"{longest} tokens do not fit into {self.name}'s window of {self.window}")
        begin, end, pad = (getattr(self.tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad"))
        head = [begin] if self.begins else []
        size = self.padded or longest + 1 + self.begins
        rows = torch.tensor([[*head, *row, end, *[pad] * (size - self.length(row))] for row in ids])
        lengths = torch.tensor([[self.length(row)] for row in ids])
        # CLIP is causal and is asked as the pipelines ask it; T5 sees both ways, so they tell it of padding or do not.
        told = not self.begins and self.padded is None
        mask = {"attention_mask": (torch.arange(size) < lengths).to(self.device)} if told else {}
        step = max(1, _POSITIONS // size)
        token = running.set(self._host)  # no session's terms act on what a guard measures
        try:
            parts = [
                self._read(rows[i : i + step].to(self.device), {n: m[i : i + step] for n, m in mask.items()})
                for i in range(0, len(rows), step)
            ]
        finally:
            running.reset(token)
        states, pooled = zip(*parts)
        return (
            torch.cat(states)[:, : longest + 1 + self.begins] if states[0] is not None else None,
            torch.cat(pooled) if pooled[0] is not None else None,
        )

    @property
    def depth(self) -> int:
        """How many of its layers the denoiser hears: what is changed behind them has no effect."""
        return len(self._layers()) - (self._place.states == "penultimate") - self._skip

    @property
    def heard(self) -> int:
        """The same, where a pooled vector counts as well: it is of the last one."""
        return len(self._layers()) if self._place.pooled else self.depth

    @property
    def _skip(self) -> int:
        """How many more of its last layers the running call leaves out."""
        return self._host.clip_skip if self.begins else 0

    @torch.no_grad()
    def through(
        self, ids: Sequence[Sequence[int]], layer: int, change: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The same, padded to the whole window as the pipelines pad, with other states behind one of CLIP's layers.

        change: the states that leave the layer, [rows, window + 2, width] -> what the next layer is given; called with
        as many rows at a time as are read at a time, in their order. Gives (states [rows, window + 2, width], pooled).
        """
        begin, end, pad = (getattr(self.tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad"))
        rows = torch.tensor([[begin, *row, end, *[pad] * (self.window - len(row))] for row in ids])
        if layer >= self.depth:
            raise GuardError(
                f"a guard acts behind layer {layer} of {self.name}, and this call hears the first {self.depth} alone: "
                "give a smaller clip_skip, or leave it out"
            )

        def changed(module: nn.Module, args: Any, output: Any) -> Any:
            if running.get() is not self._host:  # another pipeline that shares this encoder, in its own thread
                return None
            return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

        token = running.set(self._host)
        # Before any other hook: those by which transformers collects hidden states must see what is changed.
        handle = self._layers()[layer].register_forward_hook(changed, prepend=True)
        try:
            parts = [self._read(part.to(self.device), {}) for part in rows.split(max(1, _POSITIONS // rows.shape[1]))]
        finally:
            handle.remove()
            running.reset(token)
        states, pooled = zip(*parts)
        return (
            torch.cat(states) if states[0] is not None else None,
            torch.cat(pooled) if pooled[0] is not None else None,
        )

    def differentiable(
        self, ids: Sequence[Sequence[int]], prefix: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """As ``encode`` for CLIP, padded to the whole window and with gradients: towards terms beside its layers, which
        act here, and towards ``prefix`` [k, hidden], input vectors that stand before every text.

        Gives (states [rows, window + 2, width], pooled). ValueError for what does not fit into the window.
        """
        k = 0 if prefix is None else len(prefix)
        if (longest := k + max(map(len, ids))) > self.window:
            raise ValueError(f"{longest} tokens do not fit into {self.name}'s window of {self.window}")
        begin, end, pad = (getattr(self.tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad"))
        rows = [[begin, *[0] * k, *row, end, *[pad] * (self.window - k - len(row))] for row in ids]

        def insert(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            assert prefix is not None
            own = prefix.to(output).expand(len(output), -1, -1)
            return torch.cat([output[:, :1], own, output[:, 1 + k :]], 1)

        handle = self._words().register_forward_hook(insert) if k else None
        try:
            return self._read(torch.tensor(rows).to(self.device), {})
        finally:
            if handle is not None:
                handle.remove()

    @contextmanager
    def reading(self, text: str, vectors: Tensor) -> Iterator[None]:
        """Meanwhile, wherever the encoder is given this text and whoever asks, it reads these input vectors [n, hidden]
        in place of the text's tokens, with gradients. For CLIP. ValueError for more than the window holds.
        """
        if not 0 < len(vectors) <= self.window:
            raise ValueError(f"{len(vectors)} vectors do not fit into {self.name}'s window of {self.window}")
        own = self.ids([text])[0]
        end, pad = (getattr(self.tokenizer, f"{n}_token_id") for n in ("eos", "pad"))

        def insert(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            wanted = torch.tensor([*own, end], device=args[0].device)
            here = (args[0][:, 1 : 2 + len(own)] == wanted).all(1)
            if not here.any():
                return None
            after = torch.tensor([end, *[pad] * (output.shape[1] - len(vectors) - 2)])
            rest = self.vocabulary[after.to(output.device)].to(output)
            row = torch.cat([output[0, :1], vectors.to(output), rest])
            return torch.where(here[:, None, None], row, output)

        handle = self._words().register_forward_hook(insert)
        try:
            yield
        finally:
            handle.remove()

    @property
    def vocabulary(self) -> Tensor:
        """The input vectors of all its tokens, [tokens, hidden]."""
        return self._words().weight.detach()  # type: ignore[no-any-return, operator, union-attr]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No gradients for the encoder's own weights and no dropout meanwhile."""
        with frozen(self.module):
            yield

    def _words(self) -> nn.Module:
        return self.module.get_input_embeddings()  # type: ignore[no-any-return, operator]

    def _layers(self) -> nn.ModuleList:
        found = [m for n, m in self.module.named_modules() if n.split(".")[-2:] == ["encoder", "layers"]]
        return found[0]  # type: ignore[return-value]

    def _read(self, rows: Tensor, mask: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        skip = self._skip
        inner = self._place.states == "penultimate" or (skip and self._place.states)
        out = self.module(rows, output_hidden_states=bool(inner), **mask)
        pooled = getattr(out, "text_embeds", None)
        if pooled is None and self._place.pooled:
            pooled = out.pooler_output
        states = {
            "last": lambda: self._normed(out.hidden_states[-1 - skip]) if skip else out.last_hidden_state,
            "penultimate": lambda: out.hidden_states[-2 - skip],
        }
        return states[self._place.states]() if self._place.states else None, pooled if self._place.pooled else None

    def _normed(self, states: Tensor) -> Tensor:
        """As Stable Diffusion 1.x has states of earlier layers."""
        whole: Any = getattr(self.module, "_orig_mod", self.module)
        return getattr(whole, "text_model", whole).final_layer_norm(states)  # type: ignore[no-any-return]

    def vectors(self, ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Texts as one vector each, in every space in which the denoiser hears of them: list of [rows, width], float32.

        Of states: CLIP's at the end token, which has seen the whole text; T5's mean, whose end token sums up nothing.
        Then the pooled vector.
        """
        states, pooled = self.encode(ids)
        found = []
        if states is not None and self.begins:
            found.append(states[range(len(ids)), [self.length(row) - 1 for row in ids]])
        elif states is not None:
            found.append(torch.stack([s[: self.length(row)].float().mean(0) for s, row in zip(states, ids)]))
        return [v.float() for v in (*found, *([pooled] if pooled is not None else []))]

    @property
    def device(self) -> torch.device:
        """Where it is asked, also under offload."""
        return self._host.device_dtype()[0]  # type: ignore[no-any-return]


def is_clip(encoder: nn.Module) -> bool:
    """Whether an encoder, compiled or not, is a CLIP: causal, with a begin token."""
    return _is(encoder, "CLIP")


def _is(encoder: nn.Module, name: str) -> bool:
    return any(name in cls.__name__ for cls in type(getattr(encoder, "_orig_mod", encoder)).__mro__)


def as_one(prompts: Sequence[str]) -> str:
    """What several encoders were given, as one text: each prompt once."""
    return ", ".join(dict.fromkeys(prompts))


def text_encoders(pipe: Any, host: Any, family: Family) -> list[TextEncoder]:
    """The encoders that a pipeline has, in the order of their prompts."""
    found: list[TextEncoder] = []
    at: dict[int, int] = {}  # how much of an embedding's width is taken, by first position
    pooled_at = 0
    for place in family.encoders:
        if getattr(pipe, place.name, None) is None:
            continue
        encoder = TextEncoder(pipe, host, place, at.get(place.start, 0), pooled_at)
        at[place.start] = encoder.width.stop if encoder.width else at.get(place.start, 0)
        pooled_at = encoder.pooled.stop if encoder.pooled else pooled_at
        found.append(encoder)
    return found
