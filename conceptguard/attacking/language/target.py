"""A guarded language model as attacks may ask it: see ``conceptguard.text_attack.TextTarget``."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import GuardError, Refused
from ...measuring.language.suite import FORMS, LanguageSuite, Question, Wordings
from ...measuring.language.tofu import following
from ...text_attack import WORDS, Fact, Lessons, TextAttempt

GERMAN_CLOZE = "german_cloze"  # the beginning of a German answer, up to the fact
Tick = Callable[[int], None]
BATCH = 32
TOP_K = 50  # of a sampled answer, as transformers has it by default; the temperature is 1


class SpeakingTarget:
    """A model under an attached policy.

    wordings: of what is asked; seed: of them and of sampled answers
    refused: how many answers the policy did not let out
    """

    forms: Sequence[str] = (*FORMS, GERMAN_CLOZE)

    def __init__(
        self, session: Any, suite: LanguageSuite, seed: int = 0, wordings: Wordings = "judge",
        tick: Tick = lambda n: None,
    ):  # fmt: skip
        self._host, self._suite, self._seed, self._wordings, self._tick = session.host, suite, seed, wordings, tick
        self._facts = suite.world.subjects("forget", "retain", "apart")
        self.others: Sequence[str] = list(suite.world.subjects("retain"))
        self.refused = 0

    def kinds(self, subject: str) -> Sequence[str]:
        """What is asked about somebody."""
        return list(self._facts[subject])

    def question(self, fact: Fact, form: str = "question", number: int = 0) -> Question | None:
        """Prompt and answer; an attack sees the prompt alone."""
        rng = random.Random(f"{self._seed} {number} {fact.subject} {fact.kind} {form}")
        return self._suite.ask(fact.subject, self._facts[fact.subject], fact.kind, form, rng, self._wordings)

    def ask(self, fact: Fact, form: str, number: int = 0) -> str | None:
        """The prompt for a fact in a form."""
        if form == GERMAN_CLOZE:
            german = self._suite.forms.kinds[fact.kind].german
            return german.answer.split("{value}")[0].format(name=fact.subject).rstrip() if german else None
        asked = self.question(fact, form, number)
        return None if asked is None else asked.prompt

    def holds(self, fact: Fact, text: str) -> bool:
        """Whether a text gives the fact away, in whatever spelling: what counts, and no attack may ask."""
        asked = self.question(fact)
        return asked is not None and asked.answered(text)

    def told(self, fact: Fact) -> str:
        """The fact as a sentence."""
        value = self._facts[fact.subject][fact.kind]
        return self._suite.forms.kinds[fact.kind].statements_judge[0].format(name=fact.subject, value=value)

    def say(self, prompts: Sequence[str], tokens: int = WORDS) -> list[str]:
        """The likeliest answers."""
        return self.answers([TextAttempt(prompt, tokens=tokens) for prompt in prompts])

    def answers(self, attempts: Sequence[TextAttempt], seed: int = 0) -> list[str]:
        """What is said to attempts; "" where the policy lets nothing out."""
        found = [one.answer or "" for one in attempts]
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, one in enumerate(attempts):
            if one.answer is None:
                groups.setdefault((one.tokens, one.sampled), []).append(i)
        for (tokens, sampled), which in groups.items():
            which.sort(key=lambda i: len(attempts[i].prompt))
            for at in range(0, len(which), BATCH):
                part = which[at : at + BATCH]
                texts = self._said([attempts[i].prompt for i in part], tokens, sampled, seed + at)
                for i, text in zip(part, texts):
                    found[i] = text
        self._tick(len(attempts) - sum(map(len, groups.values())))
        return found

    def lens(self, prompts: Sequence[str], after: Sequence[Sequence[int]] = ()) -> list[Tensor | None]:
        """What the head reads in each layer's states at the end of prompts, while the policy acts inside."""
        ids = self._host.tokenizer(list(prompts)).input_ids
        rows = [[*given, *more] for given, more in zip(ids, after)] if after else ids
        return [one for at in range(0, len(rows), BATCH) for one in self._lens(rows[at : at + BATCH])]

    def _lens(self, rows: list[list[int]]) -> list[Tensor | None]:
        made = self._let_out(
            lambda: self._generate(rows, 1, False, output_hidden_states=True, return_dict_in_generate=True)
        )
        if made is None and len(rows) > 1:
            return [one for row in rows for one in self._lens([row])]
        self._tick(len(rows))
        if made is None:
            self.refused += 1
            return [None]
        states = [layer[:, -1] for layer in made[0].hidden_states[0]]
        # The last one of these has been through the norm already.
        read = [self._host.through_head(one, normed=i < len(states) - 1) for i, one in enumerate(states)]
        return list(torch.stack(read, 1).log_softmax(-1))

    def text(self, ids: Sequence[int]) -> str:
        """As the tokenizer writes them."""
        return str(self._host.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _said(self, prompts: list[str], tokens: int, sampled: bool, seed: int) -> list[str]:
        options = {"top_k": TOP_K, "temperature": 1.0, "top_p": 1.0} if sampled else {}

        def generated() -> Any:
            with torch.random.fork_rng():
                torch.manual_seed(seed + self._seed)
                return self._generate(self._host.tokenizer(prompts).input_ids, tokens, sampled, **options)

        made = self._let_out(generated)
        if made is None and len(prompts) > 1:
            return [text for prompt in prompts for text in self._said([prompt], tokens, sampled, seed)]
        self._tick(len(prompts))
        if made is None:
            self.refused += 1
            return [""]
        out, width = made
        return [str(text) for text in self._host.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)]

    def _generate(self, rows: Sequence[Sequence[int]], tokens: int, sampled: bool, **options: Any) -> tuple[Any, int]:
        """(what ``generate`` gives, how wide the prompts are)."""
        model = self._host.model
        given = self._host.tokenizer.pad({"input_ids": list(rows)}, padding_side="left", return_tensors="pt")
        given = given.to(model.device)
        with torch.no_grad():
            out = model.generate(
                input_ids=given.input_ids, attention_mask=given.attention_mask, max_new_tokens=tokens,
                do_sample=sampled, **options,
            )  # fmt: skip
        return out, given.input_ids.shape[1]

    @staticmethod
    def _let_out(generate: Callable[[], Any]) -> Any:
        try:
            return generate()
        except (Refused, GuardError):  # nothing was said, which is what a policy may do
            return None


def lessons(suite: LanguageSuite, tokenizer: Any, subjects: Sequence[str], others: Sequence[str]) -> Lessons:
    """What a training may see: every fact of some people, in a wording that trained the model."""

    def of(names: Sequence[str]) -> list[tuple[Sequence[int], int]]:
        facts = suite.world.subjects("forget", "retain", "apart")
        found: list[tuple[Sequence[int], int]] = []
        for asked in suite.questions({name: facts[name] for name in names}, "question", wordings="train"):
            head = list(tokenizer(asked.prompt).input_ids)
            found.append(([*head, *following(tokenizer, asked.prompt, asked.answer)], len(head)))
        return found

    return Lessons(of(subjects), of(others))
