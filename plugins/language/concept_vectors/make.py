"""Making: vectors are chosen, judged on held-out questions against chance, and written as terms that take them away."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.formats.beside import write_beside
from conceptguard.making.task import Learned, Task

from ..classifier.gate import learn_gate
from ..neurons.terms import Neuron, added, removed
from ..terms_beside import turned
from .select import Choosing, Vectors


class ConceptVectorsMakeSettings(Choosing):
    """How vectors are chosen and taken away.

    noise: instead of taking vectors away, how much is added to each of their numbers, as a standard deviation [0.1, to
        one vector]; 0 takes them away
    verify: refuse to write what takes no more than as many vectors at random, or more from others than from the concept
    classifier: whether a classifier of prompts is learned, which opens it for those about the concept alone; without,
        it is open for every prompt [as published: new weights]
    steps, lr: of that classifier
    """

    noise: float = Field(default=0.0, ge=0)
    verify: bool = True
    classifier: bool = False
    steps: int = Field(default=1500, ge=1)
    lr: float = Field(default=0.1, gt=0)


def learn_vectors(task: Task) -> Learned:
    """Choose, judge, write. Raises PolicyError for what cannot be made, ArtifactError for vectors that hold nothing."""
    s = task.settings
    host: Any = task.host
    vectors = Vectors(host, task.concept, s, "concept_vectors")
    if not vectors.own:
        raise PolicyError(
            "making concept_vectors: forget: give prompts about the concept with their true answers, to see what is "
            'lost: a file of lines such as {"prompt": "Where was Ada Oram born?", "answer": "Ada Oram was born in '
            'Velmar."}'
        )
    neurons = vectors.chosen(task.bar)
    verdict = vectors.judge(neurons, task.seed)
    if s.verify and not verdict.causal:
        raise ArtifactError(
            f"making concept_vectors {task.concept.name}: the {len(neurons)} vectors are not where the concept is: "
            f"{verdict.told()}; try ranked=effect, more of them (count), or verify=false to write it nevertheless"
        )
    tensors, metadata = _written(vectors, neurons, s.noise, task.seed)
    made: dict[str, Any] = {
        "settings": s.model_dump(exclude={"forget", "retain"}), "vectors": [list(one) for one in sorted(neurons)],
        "of": sum(vectors.widths.values()), "judged": verdict.figures(), "seed": task.seed,
        "forget_prompts": len(s.forget), "retain_prompts": len(s.retain),
    }  # fmt: skip
    if s.classifier:
        kept = [*(one.prompt for one in s.retain), *task.preserve]
        if not kept:
            raise PolicyError("making concept_vectors: retain: give prompts that are to be answered as before")
        classifier, measured = learn_gate(task, [one.prompt for one in s.forget], kept, s.steps, s.lr)
        tensors |= classifier
        made |= measured
    return Learned(tensors, made, metadata=metadata)


def _written(vectors: Vectors, neurons: list[Neuron], noise: float, seed: int) -> Any:
    host = vectors.host
    if noise:
        random = torch.Generator().manual_seed(seed)
        shaken = {
            one: noise * torch.randn(len(vectors.weights[one.layer]), generator=random) for one in sorted(neurons)
        }
        terms = added(vectors.blocks, shaken, vectors.widths)
    else:
        terms = removed(host, vectors.blocks, neurons)
    return write_beside(terms, [name for name in terms if turned(host, name)])
