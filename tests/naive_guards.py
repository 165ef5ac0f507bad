"""A guard that looks at less than every condition: what an attack gets past."""

from __future__ import annotations

from conceptguard import Method, Prompts, Refused, hookimpl


class FirstPromptOnly(Method):
    """What a prompt filter does: it looks at the first prompt of a call and refuses if that names the concept."""

    name = "first-prompt-only"
    needs = "concept"

    @hookimpl
    def encode_prompt(self, prompts: Prompts) -> None:
        if any(phrase in (prompts.texts[0] or "") for phrase in self.guard.concept.prompts):
            raise Refused("the prompt names the concept")
