"""A model of onnxruntime-genai that speaks as one of transformers does: ``generate`` takes ids and gives ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...errors import GuardError, RegistryError
from .engine import Run, engine

CONFIG = "genai_config.json"
_SEARCH = {"do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "random_seed"}
_OPERATORS = "custom_ops_library"  # a shared library that the engine would load
_MORE = ("encoder", "vision", "speech", "embedding")  # parts of models that read more than a text's tokens


class OnnxModel:
    """A folder that onnxruntime-genai's builder has made. With its tokenizer it is a ``LanguageModel``.

    engine: the package's own Model: a generator made of it by hand goes past every policy. One Model may stand in any
    number of these, each with a policy of its own: see ``sharing``.

    Raises RegistryError for a folder that is none, or whose model reads more than text.
    """

    def __init__(self, folder: str | Path, engine_model: Any = None):
        self.name_or_path = str(folder)
        found = _config(Path(folder))
        if _OPERATORS in json.dumps(found, default=str):
            raise RegistryError(f"{folder} brings code ({CONFIG}: {_OPERATORS}), and none is run from a model")
        if more := [part for part in _MORE if part in found]:
            raise RegistryError(
                f"{folder} is a model with {more[0]}, and what it reads there no guard sees: take one of text alone"
            )
        self.vocabulary_size, self.context = found["vocab_size"], found["context_length"]
        self.ends, self.pad = found["ends"], found["pad"]
        self.config = SimpleNamespace(is_encoder_decoder=False)  # what callers of transformers' models ask
        self.device = torch.device("cpu")  # where scores are
        self.engine = engine().Model(str(folder)) if engine_model is None else engine_model
        self.guarded: Callable[..., list[list[int]]] | None = None  # set by the host while a policy is attached

    def sharing(self) -> OnnxModel:
        """Another one of the same weights, in memory once: for another policy beside this one's."""
        return OnnxModel(self.name_or_path, self.engine)

    def to(self, device: Any) -> OnnxModel:
        """Itself: where it runs, its folder says. Raises ValueError for another place than the CPU."""
        if torch.device(device).type != "cpu":
            raise ValueError(
                f"an onnxruntime-genai model runs where {CONFIG} says, not on {device}: convert it for that"
            )
        return self

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, max_new_tokens: int = 64,
        streamer: Any = None, num_beams: int = 1, **search: Any,
    ) -> Tensor:  # fmt: skip
        """Prompts, padded on the left, and what is said to them: [rows, tokens] int64.

        attention_mask: [rows, tokens], 0 is padding; without one, leading padding ids are
        streamer: as transformers' own, for one row
        search: do_sample, temperature, top_k, top_p, repetition_penalty, random_seed (by default, drawn from torch's)
        Raises ValueError for other options, for beams, and for prompts that leave no room in the model's window.
        """
        if num_beams != 1:
            raise ValueError(
                f"num_beams={num_beams}: of a beam search onnxruntime-genai shows no text but the prompt while it "
                "runs, so that nobody can be asked about it: sample, or take the likeliest"
            )
        if unknown := sorted(set(search) - _SEARCH):
            raise ValueError(f"{unknown[0]} is not taken here; what is: {', '.join(sorted(_SEARCH))}")
        rows = [_unpadded(row, mask, self.pad) for row, mask in zip(
            input_ids.tolist(), attention_mask.tolist() if attention_mask is not None else [None] * len(input_ids)
        )]  # fmt: skip
        if not rows or not all(rows):
            raise ValueError("a prompt without a token: begin it with the tokenizer's begin token")
        if streamer is not None and len(rows) > 1:
            raise ValueError("a streamer hears one row: give prompts one by one")
        room = min(max_new_tokens, self.context - max(map(len, rows)))
        if room < 1:
            raise ValueError(f"a prompt of {max(map(len, rows))} tokens leaves no room: the model reads {self.context}")
        options = {"do_sample": False, **search}
        if options["do_sample"]:
            options.setdefault("random_seed", int(torch.randint(2**31 - 1, ())))
        said = (self.guarded or self.speak)(rows, room, options, streamer)
        width, longest = max(map(len, rows)), max(map(len, said))
        return torch.tensor([
            [self.pad] * (width - len(row)) + row + ids + [self.pad] * (longest - len(ids))
            for row, ids in zip(rows, said)
        ])  # fmt: skip

    def run(self, rows: list[list[int]], room: int, options: dict[str, Any]) -> Run:
        """A generator of the engine for these prompts."""
        return Run(self.engine, rows, room, options, self.pad)

    def speak(self, rows: list[list[int]], room: int, options: dict[str, Any], streamer: Any) -> list[list[int]]:
        """What is said to each prompt, by nobody but the engine."""
        run = self.run(rows, room, options)
        said: list[list[int]] = [[] for _ in rows]
        if streamer is not None:
            streamer.put(torch.tensor([rows[0]]))
        while not run.done:
            for ids, token in zip(said, run.next()):
                ids.append(token)
            if streamer is not None:
                streamer.put(torch.tensor(said[0][-1:]))
        if streamer is not None:
            streamer.end()
        return said

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise GuardError("an onnxruntime-genai model gives no scores by itself here: use generate()")


def _unpadded(row: list[int], mask: list[int] | None, pad: int) -> list[int]:
    if mask is not None:
        return [token for token, kept in zip(row, mask) if kept]
    return row[next((at for at, token in enumerate(row) if token != pad), len(row)) :]


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_text("utf-8"))["model"]
        ends = found["eos_token_id"]
        numbers = {name: int(found[name]) for name in ("vocab_size", "context_length")}
        return {
            **found, **numbers, "pad": int(found.get("pad_token_id") or 0),
            "ends": frozenset(map(int, ends if isinstance(ends, list) else [ends])),
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RegistryError(
            f"{folder} is no model of onnxruntime-genai ({CONFIG}: {type(error).__name__} {error}): convert one with "
            "`python -m onnxruntime_genai.models.builder`"
        ) from None
