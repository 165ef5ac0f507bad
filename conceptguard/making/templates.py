"""A concept's prompts in templates, checked and encoded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import PolicyError
from ..generation.conditioning import Encoded, stack

if TYPE_CHECKING:
    from ..host import Host

TEMPLATES = ("{}", "{a}", "a photo of {a}", "a picture of {a}", "an image of {}", "a painting of {a}", "{}, drawing")
_ARTICLES = re.compile(r"(a|an|the|some|one|two|my|some\w+)\s", re.IGNORECASE)


def fill(template: str, prompt: str) -> str:
    """``{}`` is the prompt, ``{a}`` the prompt with an article unless it has one; an empty prompt leaves no gap."""
    article = f"{'an' if prompt[:1].lower() in 'aeiou' else 'a'} {prompt}" if prompt else ""
    text = template.replace("{a}", prompt if _ARTICLES.match(prompt) else article).replace("{}", prompt)
    return re.sub(r"\s+([,.:])", r"\1", " ".join(text.split())).strip(" ,")


def through(template: str, prompt: str) -> str:
    """A filled template up to the end of the concept."""
    ends = [template.find(mark) + len(mark) for mark in ("{}", "{a}") if mark in template]
    return fill(template[: min(ends)], prompt)


def before(template: str) -> str:
    """A filled template up to the concept, without it."""
    return fill(template[: min(at for mark in ("{}", "{a}") if (at := template.find(mark)) >= 0)], "")


def filled(templates: Sequence[str], words: Sequence[str]) -> list[str]:
    """Every word in every template, each text once, word by word."""
    return list(dict.fromkeys(fill(t, word) for word in words for t in templates))


def instead(templates: Sequence[str], words: Sequence[str], other: str) -> list[str]:
    """For each text of ``filled``, in its order, the same template with another word."""
    return list({fill(t, word): fill(t, other) for word in words for t in templates}.values())


def encode_all(host: Host, texts: Sequence[str]) -> Encoded:
    """Any number of texts as the denoiser sees them."""
    return stack(*(host.encode(list(texts[i : i + 64])) for i in range(0, len(texts), 64)))


def check_templates(templates: Sequence[str]) -> None:
    """Raises PolicyError when a template has no place for the concept."""
    for template in templates:
        if "{}" not in template and "{a}" not in template:
            raise PolicyError(f"template '{template}' has no place for the concept: write {{}} or {{a}}")
    if not templates:
        raise PolicyError("no templates: give at least '{}'")


def check_window(host: Host, texts: Sequence[str]) -> None:
    """Raises PolicyError when a text does not fit the encoder's window and would be cut."""
    window = host.encode([texts[0]]).embeds.shape[1] - 2
    for text, ids in zip(texts, host.tokens(list(texts))):
        if len(ids) >= window:
            raise PolicyError(f"prompt '{text[:60]}...' fills the encoder's window of {window} tokens: shorten it")
