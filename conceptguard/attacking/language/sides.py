"""The models that one attack is run on: one that never knew, the one that knows, and that one under the policy."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from ...errors import BaseMismatch
from ...host import LanguageModel
from ...measuring.language.suite import LanguageSuite, Wordings
from ...policy import Policy
from ...policy_file import load_policy
from ...sessions.attach import attach
from ...text_attack import Fact, Lessons, TextAttack, TextBudget
from ..kept import Kept, told_of
from .target import SpeakingTarget, Tick, lessons


@dataclass
class TextPlan:
    """What is to be attacked, and how.

    pair, never: the model that knows, and one that never read of those who are to be forgotten; unguarded
    policy: None attacks the model as it is; attacks: classes by name; wordings: of what is asked
    before: the model before something was unlearned in its weights, against which it is then held
    """

    pair: LanguageModel
    never: LanguageModel
    policy: Policy | None
    suite: LanguageSuite
    attacks: Mapping[str, type[TextAttack]]
    budget: TextBudget
    seed: int = 0
    wordings: Wordings = "judge"
    again: bool = False
    before: LanguageModel | None = None

    def facts(self, forget: bool = True, taught: bool = False) -> list[Fact]:
        """What is asked for, evenly over people and kinds, about every second one first. taught: and about nobody else,
        since of those to be forgotten the others are what an attack on weights is given."""
        people = list(self.suite.world.subjects(*(("forget",) if forget else ("apart", "retain"))))
        everything = []
        for some in (people[::2], [] if taught else people[1::2]):
            of_them = [(who, kind) for who in some for kind in self.suite.forms.kinds]
            random.Random(f"facts {self.seed}").shuffle(of_them)
            everything += of_them
        return [Fact(who, kind, i) for i, (who, kind) in enumerate(everything[: self.budget.asks])]

    def lessons(self) -> Lessons:
        """Of those to be forgotten who are not asked about, and as many others."""
        known = list(self.suite.world.subjects("forget"))[1::2]
        others = list(self.suite.world.subjects("retain"))[: len(known)]
        return lessons(self.suite, self.pair.tokenizer, known, others)


@dataclass
class Side:
    """A model under a policy. own: whose rows they are, which have controls beside them; kept: what was measured"""

    label: str
    pair: LanguageModel
    policy: Policy
    own: bool
    plan: TextPlan
    kept: Kept

    @contextmanager
    def speaking(self, kind: type[TextAttack], by_chance: bool, tick: Tick) -> Iterator[SpeakingTarget]:
        """The model under its policy meanwhile, weights changed on a copy where the attack is one on weights."""
        plan, model = self.plan, self.pair.model
        if kind.needs == "weights":
            demand_numbers(model, kind.name)
            model = copy.deepcopy(model)
            rng = torch.Generator().manual_seed(plan.seed)
            kind.change(model, plan.lessons(), plan.budget, rng, by_chance)
        with attach((model, self.pair.tokenizer), self.policy) as session:
            yield SpeakingTarget(session, plan.suite, plan.seed, plan.wordings, tick)


def sides(plan: TextPlan) -> list[Side]:
    """The last one is that whose rows are told."""
    nothing = load_policy({"name": "none", "guards": []})

    def side(label: str, pair: LanguageModel, policy: Policy, own: bool) -> Side:
        terms = {
            **told_of(policy), "weights": digest(pair), "suite": plan.suite.world.model_dump(mode="json"), "own": own,
            "forms": plan.suite.forms.model_dump(mode="json"), "budget": asdict(plan.budget), "seed": plan.seed,
            "wordings": plan.wordings, "device": str(pair.device), "torch": torch.__version__,
        }  # fmt: skip
        return Side(label, pair, policy, own, plan, Kept(terms, plan.again))

    never = side("never", plan.never, nothing, False)
    own = side(plan.policy.name if plan.policy else plan.pair.name, plan.pair, plan.policy or nothing, True)
    if plan.policy is None and plan.before is None:
        own.label = "none"
        return [never, own]
    return [never, side("bare", plan.before or plan.pair, nothing, False), own]


def demand_numbers(model: torch.nn.Module, attack: str) -> None:
    """Raises BaseMismatch where weights are not plain numbers, and would be changed to nonsense, or not at all."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and not (isinstance(weight, torch.Tensor) and weight.is_floating_point()):
            raise BaseMismatch(
                f"{attack} changes weights, and those of layer {name} are quantised: give the model in 16 or 32 bits"
            )


def digest(pair: LanguageModel) -> str:
    """A hash of every weight: a model that was trained anew is another one."""
    found = hashlib.sha256()
    for name, value in sorted(pair.model.state_dict().items()):
        found.update(name.encode())
        # A packed layer keeps its weight, and its bias or none, side by side.
        for one in value if isinstance(value, tuple) else (value,):
            found.update(_bytes(one))
    return found.hexdigest()


def _bytes(value: object) -> bytes:
    if not isinstance(value, torch.Tensor):
        return repr(value).encode()
    plain = value.detach().cpu()
    plain = plain.dequantize() if plain.is_quantized else plain
    return plain.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
