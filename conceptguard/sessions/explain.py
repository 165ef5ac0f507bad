"""What a policy would do about a prompt, and because of which of its words: gates without a generation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .session import Session


@dataclass(frozen=True)
class Opening:
    """One guard and one prompt.

    gate: how far it would open, strength included
    words: the tokens that open it by themselves, as the whole prompt makes them mean; none where only all together do
    """

    guard: str
    gate: float
    words: list[str]


def explain(session: Session, text: str) -> list[Opening]:
    """Every guard that has a gate, in the order of the policy. The prompt is cut at the encoder's window."""
    host = session.host
    bank = session.gate_bank(host.denoiser_name, host.read)
    encoded = host.read([text])
    ids = encoded.ids[0]
    gates = bank(encoded.embeds, [ids])[0].tolist()
    # Each token by itself: its place moved to the first of a text of one token.
    begin, own = encoded.embeds[0, :1], encoded.embeds[0, 1 : 1 + len(ids)]
    alone = [torch.cat([begin, token[None]]) for token in own]
    single = bank(torch.stack(alone), [[i] for i in ids]) if ids else torch.zeros(0, len(gates))
    words = _words(session, text, ids)
    found = []
    for column, (method, gate) in enumerate(zip(session.methods_with_terms, gates)):
        by_itself = [words[n] for n in single[:, column].nonzero()[:, 0].tolist()] if bank.gates[column].prompts else []
        found.append(Opening(method.guard.label, round(gate, 4), list(dict.fromkeys(by_itself)) if gate else []))
    return found


def _words(session: Session, text: str, ids: list[int]) -> list[str]:
    """The prompt's tokens as a reader knows them, by whichever of the text encoders these are the tokens of."""
    own = next((e for e in session.host.encoders() if e.ids([text])[0] == ids), None)
    return own.words(ids) if own else [str(i) for i in ids]
