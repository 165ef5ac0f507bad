"""The one way in which artifacts are made: what is checked before a method learns, what is written of what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conceptguard import Learned, Method, Opens, PolicyError, Settings, Task, host_for
from conceptguard.making.maker import find_made


class ToyMakeSettings(Settings):
    """size: of the vector; steps: of nothing"""

    size: int = 4
    steps: int = 2


class Toy(Method):
    """Learns a vector."""

    name = "toy"
    MakeSettings = ToyMakeSettings

    @classmethod
    def learn(cls, task: Task) -> Learned:
        task.check(["{}"])
        with task.bar(task.settings.steps) as tick:
            for step in range(task.settings.steps):
                for report in (tick, *task.reports):
                    report(step, 0.5)
        vector = torch.full((task.settings.size,), float(task.seed))
        return Learned({"vector": vector}, task.made(seed=task.seed), Opens(task.concept.prompts, task.preserve))


def make(tiny: Any, out: Path, **options: Any) -> Any:
    return Toy.make(host_for(tiny), {"name": "Red Car", "prompts": ["red car"]}, out, progress=False, **options)


def test_what_is_written(tiny: Any, tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    made = make(tiny, tmp_path, preserve=["a bus"], seed=3, size=2, report=lambda *at: told.append(at))
    manifest = made.manifest
    assert made.folder.parts[-2:] == ("toy", "red-car") and [f.path for f in manifest.files] == ["red-car.safetensors"]
    assert made.tensors()["vector"].tolist() == [3.0, 3.0]
    assert manifest.made["settings"] == {"size": 2, "steps": 2} and manifest.made["preserve"] == ["a bus"]
    assert manifest.made["seed"] == 3 and manifest.made["weights"] and manifest.made["seconds"] >= 0
    assert manifest.base.fingerprint == host_for(tiny).fingerprint()
    assert 0 < manifest.gate["floor"] < manifest.gate["full"] <= 1
    assert told == [(0, 0.5), (1, 0.5)]
    assert find_made(Toy, host_for(tiny), {"name": "Red Car", "prompts": ["red car"]}, tmp_path, preserve=["a bus"],
                     seed=3, size=2) is not None  # fmt: skip
    assert find_made(Toy, host_for(tiny), {"name": "Red Car", "prompts": ["red car"]}, tmp_path, size=2) is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"sise": 2}, "making toy: sise: unknown option; did you mean 'size'?"),
        ({"size": "many"}, "making toy: size: Input should be a valid integer"),
        ({"preserve": ["a Red car toy"]}, "preserve 'a Red car toy' contains 'red car' of the concept 'Red Car'"),
    ],
)
def test_what_is_wrong_is_an_error_and_writes_nothing(
    options: dict[str, Any], why: str, tiny: Any, tmp_path: Path
) -> None:
    with pytest.raises(PolicyError) as error:
        make(tiny, tmp_path, **options)
    assert str(error.value).startswith(why)
    assert not list(tmp_path.iterdir())


def test_a_method_without_a_maker_says_so(tiny: Any, tmp_path: Path) -> None:
    class Guardian(Method):
        name = "guardian"

    with pytest.raises(PolicyError, match="method 'guardian' makes no artifacts"):
        Guardian.make(host_for(tiny), "x", tmp_path)
