"""What ``conceptguard say`` says: prompts one by one, under a policy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .prompts import Ask

if TYPE_CHECKING:
    from ..host import LanguageModel
    from ..policy import Policy
    from ..receipt import Receipt


class Asked(NamedTuple):
    """How everything is said. chat: whether prompts go into the chat template, None where there is one; picture: that
    every prompt is about, of a model that sees."""

    tokens: int
    temperature: float = 0.0
    beams: int = 1
    chat: bool | None = None
    seed: int = 0
    picture: Path | None = None


def say_all(
    pair: LanguageModel, policy: Policy | None, asks: Sequence[Ask], asked: Asked, on: bool = False
) -> tuple[list[dict[str, Any]], list[Receipt]]:
    """A row and a receipt for every prompt.

    on: go on where a guard refuses a prompt, which is then said in its row. Raises Refused otherwise.
    """
    from ..errors import Refused
    from ..sessions.attach import attach
    from .progress import progress

    rows: list[dict[str, Any]] = []
    receipts: list[Receipt] = []
    with attach(pair, policy) if policy else nullcontext() as guard, progress("prompts", len(asks)) as tick:
        for i, ask in enumerate(asks):
            row: dict[str, Any] = {"prompt": ask.prompt, "text": "", "tokens": 0, "forbidden": [], "taken_back": []}
            try:
                row["text"], row["tokens"] = say(pair, ask, asked, asked.seed + i if ask.seed is None else ask.seed)
            except Refused as refused:
                if not on:
                    raise
                row["refused"] = str(refused)
            if guard:
                receipts.append(guard.receipt)
                row |= _acts(receipts[-1])
            rows.append(row)
            tick(1)
    return rows, receipts


def say(pair: LanguageModel, ask: Ask, asked: Asked, seed: int) -> tuple[str, int]:
    """(what was said after the prompt, how many tokens that were)."""
    import torch

    from ..errors import ConceptGuardError

    model, tokenizer = pair
    templated = bool(getattr(tokenizer, "chat_template", None))
    if asked.chat and not templated:
        raise ConceptGuardError("--chat: the tokenizer has no chat template; leave it out")
    text = ask.prompt
    if templated and asked.chat is not False:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
    plain = text is ask.prompt
    shown: dict[str, Any] = {}
    if asked.picture:
        text, shown = _shown(tokenizer, text, asked.picture)
    inputs = tokenizer(
        text=text, return_tensors="pt", return_token_type_ids=False, add_special_tokens=plain, **shown
    ).to(model.device)
    torch.manual_seed(seed)
    drawn = {"do_sample": True, "temperature": asked.temperature} if asked.temperature else {"do_sample": False}
    out = model.generate(**inputs, max_new_tokens=asked.tokens, num_beams=asked.beams, **drawn)
    said = out[0] if model.config.is_encoder_decoder else out[0, inputs["input_ids"].shape[1] :]
    return tokenizer.decode(said, skip_special_tokens=True).strip(), len(said)


def _shown(reader: Any, text: str, file: Path) -> tuple[str, dict[str, Any]]:
    """A prompt with a place for a picture, and the picture. Raises ConceptGuardError for a model that sees nothing."""
    from ..errors import ConceptGuardError
    from ..files.pictures import open_picture

    if not hasattr(reader, "image_processor"):
        raise ConceptGuardError("--picture: this model reads text alone; leave it out, or give one that sees")
    place = str(getattr(reader, "image_token", "<image>"))
    return text if place in text else f"{place}{text}", {"images": open_picture(file)}


def _acts(receipt: Receipt) -> dict[str, list[str]]:
    """What every guard forbade and took back, each in words."""
    forbidden = [
        f"{act.guard}: {touch.change} {', '.join(map(repr, touch.tokens))} at token {touch.position}"
        for act in receipt.acts
        for touch in act.touched
    ]
    back = [
        f"{act.guard}: a {f'sentence about {one.label}' if one.label else 'word'} at token {one.position}"
        for act in receipt.acts
        for one in act.taken_back
    ]
    return {"forbidden": forbidden, "taken_back": back}
