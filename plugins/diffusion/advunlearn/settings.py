"""How an encoder is trained against an attack."""

from __future__ import annotations

from pydantic import Field

from conceptguard.making.templates import TEMPLATES
from conceptguard.making.text_encoders import Parts
from conceptguard.method import Settings


class AdvUnlearnMakeSettings(Settings):
    """How the text encoder is trained. In brackets what the authors' repository uses where it differs.

    layers: which of the encoder's ["all", and their biases]
    rank: of the change, learnt as factors; null learns whole matrices [whole]
    steps, warmup: optimiser steps, and how many of them come before the first attack [1000 and 200]
    lr: of Adam [1e-5]
    eta: how far past nothing the concept is pushed
    batch: states in a step, each with a prompt of its own [1]
    retain, retain_weight: of what stays, states in a step and weight of their loss [5; 1, in the README 0.3]
    attack_tokens: input vectors before the prompt that the attack is free to choose
    attack_steps, attack_lr: of the attack's Adam; its rate as a share of how large entries of input vectors are [30;
    1e-3, of no share]
    attack_every: the attack goes on from where it was after so many steps [1]
    views, refresh: states at a time that losses are read on, and after how many steps they are drawn anew [1 and 1]
    pool, trajectory_steps, guidance: runs that states are taken from, of DDIM [1, 50 and 3]
    templates: what the concept's prompts are put into, {} or with an article {a} [the bare prompt]
    """

    layers: Parts = "all"
    rank: int | None = Field(default=8, ge=1)
    steps: int = Field(default=60, ge=1)
    warmup: int = Field(default=20, ge=0)
    lr: float = Field(default=2e-3, gt=0)
    eta: float = Field(default=1.0, ge=0)
    batch: int = Field(default=3, ge=1)
    retain: int = Field(default=6, ge=1)
    retain_weight: float = Field(default=10.0, ge=0)
    attack_tokens: int = Field(default=1, ge=1)
    attack_steps: int = Field(default=8, ge=0)
    attack_lr: float = Field(default=0.2, gt=0)
    attack_every: int = Field(default=2, ge=1)
    views: int = Field(default=32, ge=1)
    refresh: int = Field(default=25, ge=1)
    pool: int = Field(default=4, ge=1)
    trajectory_steps: int = Field(default=20, ge=2)
    guidance: float = 3.0
    templates: list[str] = list(TEMPLATES)
