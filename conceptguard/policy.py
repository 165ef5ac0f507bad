"""What a policy says: which guards, and what happens on a violation. ``policy_file`` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from .concept import Concept

Action = Literal["flag", "blur", "black", "reject", "retry"]
_STRICTNESS: list[Action] = ["flag", "blur", "black", "retry", "reject"]


class Guard(BaseModel):
    """One method at work. Keys that are not listed here are the method's own settings.

    method: its name, see `conceptguard plugins`
    artifact: family/method/name in a registry, an unmistakable end of it, or a folder; with ./ before it, one beside
    the policy's own file
    concept: what must not appear, for methods that need no artifact
    strength: how much of what the guard does, where that has a measure
    gate: when it opens: by what the prompt asks for, always, or always as far as a number says
    preserve: what stands near the concept and must leave a gate by prompt shut
    """

    model_config = ConfigDict(extra="allow")
    method: str
    artifact: str | None = None
    concept: Concept | None = None
    strength: float = Field(default=1.0, ge=0)
    gate: Literal["prompt", "always"] | float = "prompt"
    preserve: list[str] = Field(default_factory=list)
    _folder: Path = PrivateAttr(default=Path())

    def beside(self, file: str) -> Path:
        """A file that a setting names, relative to the policy's own file where there is one."""
        return self._folder / Path(file).expanduser()

    @property
    def settings(self) -> dict[str, Any]:
        """The method's own settings, still to be validated by the method."""
        return dict(self.model_extra or {})

    @property
    def label(self) -> str:
        """How errors and receipts call this guard."""
        return " ".join(filter(None, [self.method, self.artifact, self.concept.name if self.concept else None]))


class Policy(BaseModel):
    """A list of guards, and what happens to an image that violates it.

    name: what receipts and errors call it; of a file, by default, the file's name
    on_violation: what becomes of an image that a guard flags
    guards: all of them act, in this order where order matters
    retries: for ``retry``, how often a flagged image is drawn again from another seed before it is rejected
    steer: for ``retry``, whether it is drawn away from what was found in it, and from where that was, as well: by words
    that are added to the negative prompt; where a host, or a call without guidance, has none, the seed alone is another
    unread: embeddings that were encoded while the policy was not attached carry no text, so that gates have less to
    go by: ``compare`` them alone, or ``refuse`` them
    trust: which artifacts are taken: ``any`` that is whole, or only ``signed`` ones, by keys that are trusted here
    """

    model_config = ConfigDict(extra="forbid")
    name: str = "policy"
    on_violation: Action = "reject"
    retries: int = Field(default=3, ge=1)
    steer: bool = False
    unread: Literal["compare", "refuse"] = "compare"
    trust: Literal["any", "signed"] = "any"
    guards: list[Guard] = Field(default_factory=list)


def together(*policies: Policy) -> Policy:
    """One policy of all guards, each once, with the strictest of what the policies do about images."""
    strictest = max(policies, key=lambda p: _STRICTNESS.index(p.on_violation))
    guards = list({g.model_dump_json(): g for p in policies for g in p.guards}.values())
    return Policy(
        name=" + ".join(dict.fromkeys(p.name for p in policies)), guards=guards, on_violation=strictest.on_violation,
        retries=min(p.retries for p in policies), steer=any(p.steer for p in policies),
        unread="refuse" if any(p.unread == "refuse" for p in policies) else "compare",
        trust="signed" if any(p.trust == "signed" for p in policies) else "any",
    )  # fmt: skip
