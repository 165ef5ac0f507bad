"""Making: the likeliest neurons held at a value, as terms that take away what they write and a constant instead."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.formats.beside import write_beside
from conceptguard.making.task import Learned, Task

from ..classifier.gate import learn_gate
from ..neurons.blocks import weight_of
from ..neurons.terms import places, removed
from ..terms_beside import turned
from .select import FeatureNeurons, Reading


class FeatureNeuronsMakeSettings(Reading):
    """How neurons are chosen and held.

    clamp: the value that they are held at; 0 silences them, a high one has the model speak of the concept
    verify: refuse to write what takes no more from the concept than as many neurons at random; needs forget
    classifier: whether a classifier of prompts is learned, which opens it for those about the concept alone; without,
        it is open for every prompt [as published]
    steps, lr: of that classifier
    """

    clamp: float = 0.0
    verify: bool = False
    classifier: bool = False
    steps: int = Field(default=1500, ge=1)
    lr: float = Field(default=0.1, gt=0)


def learn_neurons(task: Task) -> Learned:
    """Read, choose, write. Raises PolicyError for what cannot be made, ArtifactError for neurons that hold nothing."""
    s = task.settings
    host: Any = task.host
    found = FeatureNeurons(host, task.concept, s, "feature_neurons")
    if s.verify and not found.own:
        raise PolicyError("making feature_neurons: verify needs forget: prompts about the concept with true answers")
    neurons = found.chosen(found.read(1))
    made: dict[str, Any] = {
        "settings": s.model_dump(exclude={"forget", "retain"}), "neurons": [list(one) for one in sorted(neurons)],
        "of": sum(found.widths.values()), "seed": task.seed,
    }  # fmt: skip
    if found.own:
        verdict = found.judge(neurons, task.seed)
        if s.verify and not verdict.causal:
            raise ArtifactError(
                f"making feature_neurons {task.concept.name}: the {len(neurons)} neurons are not where the concept is: "
                f"{verdict.told()}; try more of them (count), or verify=false to write it nevertheless"
            )
        made["judged"] = verdict.figures()
    terms = removed(host, found.blocks, neurons)
    held = {}
    if s.clamp:
        by_number = {block.number: block for block in found.blocks}
        for number, own in places(neurons).items():
            held[by_number[number].name] = s.clamp * weight_of(host, by_number[number].down)[:, own].sum(1)
    tensors, metadata = write_beside(terms, [name for name in terms if turned(host, name)], held)
    if s.classifier:
        kept = [*(one.prompt for one in s.retain), *task.preserve]
        if not kept or not s.forget:
            raise PolicyError(
                "making feature_neurons: a classifier is learned from forget, prompts about the concept, and retain, "
                "prompts that are to be answered as before: give both"
            )
        classifier, measured = learn_gate(task, [one.prompt for one in s.forget], kept, s.steps, s.lr)
        tensors |= classifier
        made |= measured
    return Learned(tensors, made, metadata=metadata)
