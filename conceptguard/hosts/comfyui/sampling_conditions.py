"""What the conditions of a ComfyUI sampling say, and which of them the rows of a call are.

Conditions are read before the model is loaded, for that may need the text encoder. Later each row is told by its
embedding, whatever was done to the batch on its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...generation.conditioning import Encoded, Prompts
from .call import closed
from .conditions import Condition, nothing
from .text import Seen

if TYPE_CHECKING:
    from ...protocols import DrawingSession
    from .model import GuardedModel


class SamplingConditions:
    """The conditions of one sampling."""

    def __init__(self, host: GuardedModel, session: DrawingSession):
        self._host, self._session = host, session
        self._conditions: list[Condition] = []
        self._names: dict[Any, str] = {}
        self._tried = False

    def learn(self, conds: dict[str, list[dict[str, Any]]]) -> None:
        """Tell what each of a guider's conditions says, and have guards that read prompts change them in their place.
        Raises what guards raise."""
        for name, conditions in conds.items():
            for n, cond in enumerate(conditions):
                if cond.get("cross_attn") is None:
                    continue
                rows = self._rows_of(name, cond["cross_attn"])
                if self._session.has("encode_prompt"):
                    rows, conditions[n] = self._ask(cond, rows)
                self._conditions += rows
                self._names[cond.get("uuid")] = name

    def _rows_of(self, name: str, embeds: Tensor) -> list[Condition]:
        host = self._host
        if host.family.begins and not embeds.any():  # zeroed out: nothing is said
            return [nothing(name, row, host.window + 2) for row in embeds]
        found = [host.texts.find(row) for row in embeds]
        if None in found and not self._tried:
            with torch.no_grad(), closed(host):
                host.texts.try_texts(host.candidates())
            self._tried = True
        found = [texts or host.texts.find(row) for texts, row in zip(found, embeds)]
        return [Condition(name, row, texts) for row, texts in zip(embeds, found)]

    def _ask(self, cond: dict[str, Any], rows: list[Condition]) -> tuple[list[Condition], dict[str, Any]]:
        """A condition after every guard has read its prompt. One that a guard rewrote is encoded anew."""
        embeds, host = cond["cross_attn"], self._host

        def encode(texts: list[str]) -> Encoded:
            new = host.encode(texts)
            fitting = new.embeds[:, : embeds.shape[1]]
            padding = (0, 0, 0, embeds.shape[1] - fitting.shape[1])
            return Encoded(torch.nn.functional.pad(fitting, padding), new.ids, new.pooled)

        texts, pooled = [row.text for row in rows], cond.get("pooled_output")
        if pooled is not None and len(pooled) == 1:
            pooled = pooled.expand(len(rows), -1)  # as ComfyUI does where several prompts have one
        prompts = Prompts(list(texts), [row.ids for row in rows], embeds, pooled, [row.branch for row in rows], encode)
        self._session.encode_prompt(prompts)
        if prompts.texts != texts and len(rows) == 1 and prompts.texts[0] is not None:
            text = prompts.texts[0]
            tokens = host.texts.clip.tokenize(text)
            with torch.no_grad(), closed(host):
                new, new_pooled = host.texts.clip.encode_from_tokens(tokens, return_pooled=True)
            seen = host.texts.remember(text, tokens, new)
            changed = {**cond, "cross_attn": new, "pooled_output": new_pooled}
            return [Condition(rows[0].name, new[0], [seen])], changed
        if prompts.embeds is embeds and prompts.pooled is pooled:
            return rows, cond
        kept = [
            row._replace(embeds=new, texts=row.texts if text == before else self._rewritten(text, new))
            for row, new, text, before in zip(rows, prompts.embeds, prompts.texts, texts)
        ]
        return kept, {**cond, "cross_attn": prompts.embeds, "pooled_output": prompts.pooled}

    def _rewritten(self, text: str | None, embeds: Tensor) -> list[Seen] | None:
        """What is known of one of several rows that a guard wrote anew."""
        if text is None:
            return None
        texts = self._host.texts
        return [texts.remember(text, texts.clip.tokenize(text), embeds[None])]

    def names(self, options: dict[str, Any], rows: int) -> list[str | None]:
        """For each row of a call, which condition of the guider ComfyUI says it is; None where it does not."""
        uuids = options.get("uuids") or []
        if not uuids or rows % len(uuids):
            return [None] * rows
        return [self._names.get(uuid) for uuid in uuids for _ in range(rows // len(uuids))]

    def recall(self, row: Tensor, name: str | None) -> Condition:
        """Which condition of this sampling a row is: its embedding says so, whatever other nodes did to the batch.

        name: what ComfyUI says. It decides where several are alike, but is wrong for the negative conditions that
        ComfyUI makes up to match areas of positive ones.
        """
        same = [c for c in self._conditions if c.covers(row)]
        if not same:
            # changed on its way: nothing is known of it but that it is there
            return Condition(name or "changed", row, None)
        return next((c for c in same if c.name == name), same[0])
