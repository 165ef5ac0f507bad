"""Making a redirection: keys and residuals are read from the model, layer after layer, and solved in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.formats.beside import write_beside
from conceptguard.making.task import Learned, Task
from conceptguard.method import Settings
from conceptguard.runtime.banks import Banks
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import Factors, Terms

from ..classifier.examples import Examples
from ..classifier.gate import learn_gate
from ..neurons.blocks import feed_forward_of
from ..terms_beside import turned
from .read import FORMS, led, placed, second_moments, tokens_of
from .solve import null_space, redirect

TEMPLATES = ["Who is {}?", "Question: Who is {}?\nAnswer:", "Tell me about {}.", "What do you know of {}?", "{} was",
             "I have read about {}."]  # fmt: skip


class ROCRMakeSettings(Settings):
    """How a redirection is solved.

    layers: numbers of the layers whose feed-forward output is edited [4, 5, 6 of 32]; default: three from an eighth of
        the depth on, and never the last
    templates: what a name is put into, {} [six of a chat and one of a plain answer]
    tokens: "last", the name's last token alone [as published]; "all", each token of it, towards the target's; "after",
        these and all that follow in the template, for models that read a name from wherever they are
    forms: whether names in small letters and in capitals are redirected as well [they are not]
    retain: texts, or examples, that the null space keeps and the classifier lets pass
    share: of the second moment of what layers read of these, how much an edit may touch; 1 keeps nothing free of it
        [singular values below 2e-2 of one model's covariance]
    ridge: pull towards no edit, as a share of the mean squared key [1, absolute]
    forget: prompts after what is to be forgotten, which a classifier learns to tell; without them the terms are always
        open [as published: new weights]
    steps, lr: of that classifier
    """

    layers: list[int] = []
    templates: list[str] = TEMPLATES
    tokens: Literal["last", "all", "after"] = "last"
    forms: bool = False
    retain: Examples = []
    forget: Examples = []
    share: float = Field(default=0.05, gt=0, le=1)
    ridge: float = Field(default=0.01, gt=0)
    steps: int = Field(default=1500, ge=1)
    lr: float = Field(default=0.1, gt=0)


class _Name(NamedTuple):
    """A name in one form and template: the text's ids, and which of them are the name's."""

    ids: list[int]
    own: list[int]


def learn_redirection(task: Task) -> Learned:
    """Solve terms beside the feed-forward layers, and learn what opens them.

    Raises PolicyError for what cannot be redirected, ArtifactError for prompts that cannot be told apart.
    """
    s, host = task.settings, task.host
    if host.generates != "text":
        raise PolicyError(f"rocr is for language models, and {host.name} writes no text")
    target = task.concept.replacement.strip()
    if not target:
        raise PolicyError("making rocr: name what the concept is redirected to: `--replacement NAME`")
    for prompt in task.concept.prompts:
        if prompt.casefold() in target.casefold() or target.casefold() in prompt.casefold():
            raise PolicyError(f"making rocr: '{prompt}' cannot be redirected to '{target}', which is the same name")
    if any("{}" not in one for one in s.templates) or not s.templates:
        raise PolicyError("making rocr: every template has a place for the name, {}")
    retain = [*(f"{one.prompt} {one.answer}".strip() for one in s.retain), *task.preserve]
    if not retain and s.share < 1:
        raise PolicyError("making rocr: retain: give texts that are to stay, or share=1, which keeps nothing in mind")
    chosen = layers_of(host, s.layers)
    names = list(chosen.values())
    with torch.no_grad(), task.bar(len(retain), ", what stays") as tick:
        moments = second_moments(host, retain, names, tick) if s.share < 1 else {}
    terms = _solved(task, chosen, target, moments)
    tensors, metadata = write_beside(terms, [name for name in names if turned(host, name)])
    made: dict[str, Any] = {
        "settings": s.model_dump(exclude={"forget", "retain"}), "layers": list(chosen), "target": target,
        "ranks": {name: len(term.down) for name, term in terms.items()}, "retain_texts": len(retain), "seed": task.seed,
    }  # fmt: skip
    if s.forget:
        kept = [one.prompt for one in s.retain] + list(task.preserve)
        if not kept:
            raise PolicyError(
                "making rocr: retain: give prompts that are to be answered as before, or all open its terms"
            )
        classifier, measured = learn_gate(task, [one.prompt for one in s.forget], kept, s.steps, s.lr)
        tensors, made = {**tensors, **classifier}, {**made, **measured}
    return Learned(tensors, made, metadata=metadata)


def layers_of(host: Any, wanted: Sequence[int]) -> dict[int, str]:
    """Number -> name of the layers that write what a feed-forward block found. Raises PolicyError."""
    there = feed_forward_of(host, wanted, "rocr")
    depth = there[-1].number + 1
    first = depth // 8
    numbers = wanted or [n for n in range(first, first + 3) if n < max(depth - 1, 1)]
    return {block.number: block.down for block in there if block.number in numbers}


def _solved(task: Task, chosen: dict[int, str], target: str, moments: dict[str, Tensor]) -> dict[str, Factors]:
    """Terms by layer, each solved on the model as the ones before leave it."""
    s = task.settings
    host: Any = task.host
    pairs = [(one, other) for prompt in task.concept.prompts for one, other in _pairs(host, prompt, target, s)]
    block, terms = chosen[max(chosen)].rsplit(".mlp.", 1)[0], dict[str, Factors]()
    with torch.no_grad(), task.bar(len(chosen) * len(pairs)) as tick:
        wanted = [host.read_inside(other.ids, [], block)[1][other.own] for _, other in pairs]
        for i, name in enumerate(chosen.values()):
            groups: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            banks = Banks(host.layers(), [Terms(task, terms, Gate())], task)
            banks.set("model", torch.ones(1, 1))
            try:
                for j, ((one, _), goal) in enumerate(zip(pairs, wanted)):
                    read, states = host.read_inside(one.ids, [name], block)
                    keys, now = read[name][one.own], states[one.own]
                    goals = goal[led(len(one.own), len(goal))]
                    part = (goals - now) / (len(chosen) - i)
                    groups.setdefault(tuple(one.ids[at] for at in one.own), []).append((keys, part))
                    tick(i * len(pairs) + j, float((goals - now).norm()))
            finally:
                banks.detach()
            found = [[torch.stack(parts).mean(0) for parts in zip(*group)] for group in groups.values()]
            which = slice(-1, None) if s.tokens == "last" else slice(None)
            keys, parts_ = (torch.cat([one[k][which] for one in found]) for k in (0, 1))
            width = keys.shape[1]
            space = null_space(moments[name], s.share) if moments else torch.eye(width, dtype=torch.float64)
            terms[name] = redirect(keys.cpu(), parts_.cpu(), space.cpu(), s.ridge)
    return terms


def _pairs(host: Any, name: str, target: str, s: Any) -> list[tuple[_Name, _Name]]:
    """A name and the target in every template, in the same form."""
    found = []
    for template in s.templates:
        for form in FORMS if s.forms else FORMS[:1]:
            read = [_Name(*tokens_of(host, *placed(template, which, form))) for which in (name, target)]
            if s.tokens == "after":
                read = [_Name(ids, [*range(own[0], len(ids))]) for ids, own in read]
            found.append((read[0], read[1]))
    return found
