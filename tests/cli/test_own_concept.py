"""From a few pictures to a card: somebody's own concept, on somebody's own model, within ten minutes on two cores."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import reported, said
from PIL import Image

import conceptguard
from conceptguard.measuring.samples import Recipe, make, save_png, weights_digest
from conceptguard.measuring.suite import Sample
from conceptguard.registry import open_artifact

pytestmark = [pytest.mark.usefixtures("somewhere"), pytest.mark.slow]

CONCEPT, NEAR, FAR = "guitar", ["trumpet"], ["apple", "dog"]
MINUTES = 10


@pytest.fixture(scope="module")
def parent() -> Any:
    """The embedded model, which is about to be changed: nobody else's."""
    pipe = conceptguard.load_model("emoji-sd")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, names: list[str], each: int, seed: int, wording: str) -> dict[str, torch.Tensor]:
    """Pictures of each thing, uint8 [each, 3, h, w]."""
    found = {}
    for i, name in enumerate(names):
        samples = [Sample(wording.format(name), seed + 1000 * i + k, "object", name) for k in range(each)]
        found[name] = make(pipe, samples, Recipe(steps=8)).pixels
    return found


def sorted_pictures(pipe: Any, folder: Path) -> None:
    """What a user has. They are another model's: the sibling that is judged has drawn none of them."""
    draw = random.Random(0)
    for wording, seed in (("a {0}, noto style", 5_000_000), ("a {0}, fluent style", 6_000_000)):
        for name, pixels in drawn(pipe, [CONCEPT, *NEAR, *FAR], 10, seed, wording).items():
            for i, one in enumerate(pixels):
                save_png(one, folder / name / f"{seed}-{i:02}.png")
    (folder / "none").mkdir()
    for i in range(20):
        Image.new("RGB", (128, 128), tuple(draw.randrange(120, 256) for _ in range(3))).save(
            folder / "none" / f"{i}.png"
        )


def fine_tune(pipe: Any, steps: int = 25) -> None:
    """On pictures of its own on a warm ground, as somebody does who wants a look: every weight of its UNet moves."""
    names = [CONCEPT, *NEAR, *FAR]
    pixels = torch.cat(list(drawn(pipe, names, 4, 9_000_000, "a {0}, noto style").values())).float() / 255
    ground = torch.tensor([1.0, 0.93, 0.8])[:, None, None]
    with torch.no_grad():
        latents = pipe.vae.encode((pixels * ground) * 2 - 1).latent_dist.mean * pipe.vae.config.scaling_factor
        texts = [f"a {name}, noto style" for name in names for _ in range(4)]
        told = pipe.encode_prompt(texts, "cpu", 1, False)[0]
    random_ = torch.Generator().manual_seed(0)
    levels = pipe.scheduler.alphas_cumprod
    optimiser = torch.optim.AdamW(pipe.unet.parameters(), lr=4e-5)
    pipe.unet.train().requires_grad_(True)
    for _ in range(steps):
        at = torch.randint(len(latents), (8,), generator=random_)
        t = torch.randint(len(levels), (8,), generator=random_)
        noise, level = torch.randn(latents[at].shape, generator=random_), levels[t][:, None, None, None]
        noisy = level.sqrt() * latents[at] + (1 - level).sqrt() * noise
        velocity = level.sqrt() * noise - (1 - level).sqrt() * latents[at]
        wanted = velocity if pipe.scheduler.config.prediction_type == "v_prediction" else noise
        loss = torch.nn.functional.mse_loss(pipe.unet(noisy, t, told[at]).sample, wanted)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    pipe.unet.eval().requires_grad_(False)


@pytest.mark.timeout(3600)
def test_a_concept_of_ones_own_on_a_model_of_ones_own_ends_in_a_card(
    parent: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sorted_pictures(parent, Path("pictures"))
    elder = weights_digest(parent)
    fine_tune(parent)
    assert weights_digest(parent) != elder
    parent.save_pretrained("my-sd", safe_serialization=True)

    begin, worked = time.perf_counter(), time.process_time()
    wordings = ("{thing}, noto style", "{thing}, fluent style", "one {noun}, noto style")
    words = [part for one in wordings for part in ("--template", one)]
    said(capsys, "suite", "new", CONCEPT, "--model", "./my-sd", "--judge", "pictures", *words, "--out", "my.yaml")
    told = reported(capsys, "suite", "check", "my.yaml", "--judge", "pictures")
    assert not told["unknown"] and {row["kind"] for row in told["rows"]} == {"erased", "neighbours", "others"}
    said(capsys, "make", "uce", "--model", "./my-sd", "--concept", CONCEPT, "--preserve", ",".join(NEAR + FAR),
         "--out", "my-registry", "--try", 0)  # fmt: skip
    ref = f"my-registry/my-sd/uce/{CONCEPT}"
    made = reported(capsys, "eval", "--model", "./my-sd", "--suite", "my.yaml", "--judge", "pictures", "--guard",
                    f"uce:{ref}", "--n", 4, "--steps", 10, "--card", "my-registry")  # fmt: skip
    # What others do on the machine meanwhile is not counted: on free cores it takes no longer than it computes.
    minutes = min(time.perf_counter() - begin, time.process_time() - worked) / 60

    guard, none, blank = made["rows"]
    assert guard["erased_before"] >= 0.5 and guard["others_before"] >= 0.5, "the judge knows what the sibling draws"
    assert guard["erased_after"] <= guard["erased_before"] / 2 and guard["others_after"] >= guard["others_before"] - 0.2
    assert not none["passes"] and none["erased_after"] == none["erased_before"]
    assert not blank["passes"] and blank["others_after"] == 0
    assert guard["judge_missed"] <= 0.5 and guard["judge_false"] <= 0.2 and guard["protocol"].startswith("suite my-sd")
    card = open_artifact(Path(ref)).manifest.card
    assert (
        "--model ./my-sd --suite my.yaml --judge pictures" in card["command"]
        and f"--guard uce:{ref}" in card["command"]
    )
    assert card["erased_after"] == guard["erased_after"] and (Path(ref) / "card.png").is_file()
    assert minutes <= MINUTES
