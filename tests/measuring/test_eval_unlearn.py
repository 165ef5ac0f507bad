"""The benchmark package's own runner on the embedded model, unguarded and guarded; its faults do not reach us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from conceptguard import Method, hookimpl
from conceptguard.errors import Refused, RegistryError
from conceptguard.generation.conditioning import Prompts
from conceptguard.measuring.eval_unlearn import JudgeMetric, Technique
from conceptguard.testing.kit_guards import offered

runners = pytest.importorskip("eval_unlearn.runners", reason="eval-unlearn is not installed")

SPM = {"name": "s", "guards": [{"method": "spm", "artifact": "emoji-sd/spm/cigarette"}]}


class NoDogs(Method):
    """Refuses every prompt that names a dog."""

    name = "no-dogs"
    needs = "nothing"

    @hookimpl
    def encode_prompt(self, prompts: Prompts) -> None:
        if any("dog" in (text or "") for text in prompts.texts):
            raise Refused("no dogs here")


@pytest.fixture(autouse=True)
def embedded(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded once for all."""
    monkeypatch.setattr("conceptguard.measuring.eval_unlearn.load_model", lambda name: pipe)


def test_its_runner_measures_what_a_guard_erases(tmp_path: Path) -> None:
    found = {}
    for name, policy in (("bare", None), ("guarded", SPM)):
        runner = runners.SingleBenchmarkRunner(
            "conceptguard", "conceptguard_judge", {"policy": policy, "steps": 8, "batch": 2},
            {"concept": "cigarette", "n": 4, "batch": 2}, str(tmp_path / name), seed=None,
        )  # fmt: skip
        runner.run()
        (report,) = [json.loads(file.read_text()) for file in (tmp_path / name).rglob("*_report.json")
                     if "latest" not in file.name]  # fmt: skip
        found[name] = report["metric_result"]
        drawn = [Image.open(file).tobytes() for file in (tmp_path / name).rglob("*.png")]
        assert len(set(drawn)) == 4, "no two pictures share their noise"
    assert found["bare"]["value"] == 1.0 and found["guarded"]["value"] == 0.0
    assert found["guarded"]["details"] == {"n": 4, "low": 0.0, "high": 0.4899, "judge": "emoji-judge"}


def test_pictures_have_seeds_of_their_own_over_batches() -> None:
    technique = Technique(steps=2)
    first, second = technique.generate(["a dog"], seed=5), technique.generate(["a dog"], seed=5)
    assert first[0].tobytes() != second[0].tobytes()
    again = Technique(steps=2).generate(["a dog", "a dog"], seed=5)
    near = torch.tensor(list(again[1].tobytes())) - torch.tensor(list(second[0].tobytes()))
    assert near.abs().max() <= 2, "the second of one batch, or the first of the second one"


def test_what_is_refused_is_white_and_in_its_place() -> None:
    with offered(NoDogs) as guard:
        technique = Technique(policy={"name": "n", "guards": [guard]}, steps=2)
        found = technique.generate(["a boat", "a dog", "a cat"], seed=0)
    assert [one.getextrema() == ((255, 255),) * 3 for one in found] == [False, True, False]
    assert technique.refused == 1 and len({one.size for one in found}) == 1


def test_pictures_of_other_prompts_are_an_error_and_not_erased() -> None:
    metric = JudgeMetric("cigarette", n=2)
    (batch,) = metric.load_dataset()
    white = Image.new("RGB", (128, 128), "white")
    for images, prompts in (([white], batch.prompts), ([white] * 2, batch.prompts[::-1])):
        with pytest.raises(RegistryError, match="not the next"):
            metric.update(images, prompts, {})
    assert metric.compute().value is None
    metric.update([white, white], batch.prompts, {})
    assert metric.compute().value == 0.0
    for wrong in ({"concept": "cigaret"}, {"concept": "cigarette", "group": "all"}):
        with pytest.raises(RegistryError, match=r"did you mean|there are erased"):
            JudgeMetric(**wrong)
