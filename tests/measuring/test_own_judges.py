"""Judges that somebody has: sorted pictures, CLIP and SigLIP on disk, a plugin's; calibrated, and errors told."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image, ImageDraw
from torch.nn.functional import cross_entropy

from conceptguard import plugins
from conceptguard.errors import ConceptGuardError, RegistryError
from conceptguard.measuring import calibrate, own_judges, train_judge
from conceptguard.measuring.judge import Judge, JudgeResult

INKS = {"rose": (210, 30, 60), "leaf": (30, 160, 50), "pond": (40, 70, 200)}


def drawn(name: str, draw: random.Random, size: int = 64) -> Image.Image:
    """A disc in the ink of its name, somewhere on a light ground; ``none`` is the ground alone."""
    image = Image.new("RGB", (size, size), tuple(draw.randrange(200, 256) for _ in range(3)))
    if name in INKS:
        x, y, r = draw.randrange(size // 2), draw.randrange(size // 2), size // 2
        ImageDraw.Draw(image).ellipse((x, y, x + r, y + r), INKS[name])
    return image


def pixels(names: list[str], seed: int, size: int = 64) -> torch.Tensor:
    draw = random.Random(seed)
    arrays = [np.asarray(drawn(name, draw, size)) for name in names]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def sorted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("pictures"), random.Random(0)
    for name in (*INKS, "none"):
        (folder / name).mkdir()
        for i in range(25):
            drawn(name, draw).save(folder / name / f"{i:02}.png")
    return folder


def test_calibration_says_how_sure_it_may_be_and_changes_no_answer() -> None:
    torch.manual_seed(0)
    judge = Judge(["a", "b", "none"], ["any"], size=16, width=4).eval().requires_grad_(False)
    shown, labels = torch.rand(60, 3, 1, 1).expand(60, 3, 16, 16), torch.randint(3, (60,))
    last = judge.object_head[-1]
    last.weight.mul_(8 / judge(shown)[0].std(0).max())
    last.bias.sub_(judge(shown)[0].mean(0))
    before = judge.judge(shown)
    temperature = calibrate.calibrate(judge, shown, labels)
    after = judge.judge(shown)
    assert temperature > 2 and after.objects == before.objects, "guessing at random, it was far too sure"
    losses = [cross_entropy(said.object_probs.log(), labels) for said in (before, after)]
    assert losses[1] < losses[0]
    gaps = [calibrate.gap(said.object_probs, labels) for said in (before, after)]
    assert gaps[1] < gaps[0]
    right = Judge(["a", "b", "none"], ["any"], size=16, width=4).eval().requires_grad_(False)
    right.object_head[-1].weight.mul_(8 / right(shown)[0].std(0).max())
    said = torch.tensor([right.objects.index(one) for one in right.judge(shown[:8]).objects])
    calibrate.calibrate(right, shown[:8], said)
    assert 0.75 < float(right.judge(shown[:8]).object_probs.amax(1).mean()) < 0.97, "eight of eight are not certainty"
    sure = torch.tensor([[0.75, 0.25]] * 4)
    assert calibrate.gap(sure, torch.tensor([0, 0, 0, 1])) == 0 and calibrate.gap(sure, torch.tensor([1] * 4)) == 0.75


def test_errors_are_counted_for_each_object() -> None:
    class Says:
        def judge(self, images: Any) -> JudgeResult:
            return JudgeResult(["a", "a", "b", "none"], torch.zeros(4, 3), [], torch.zeros(4, 0))

    told = calibrate.errors(Says(), ["a", "b"], torch.zeros(4, 3, 1, 1), torch.tensor([0, 1, 1, 1]))  # type: ignore[arg-type]
    assert (told["a"]["missed"], told["a"]["false"], told["a"]["n"]) == (0.0, 0.333, 1)
    assert (told["b"]["missed"], told["b"]["false"]) == (0.667, 0.0) and told["b"]["missed_at_most"] > 0.9


def test_sorted_pictures_become_a_judge_once(
    sorted_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(own_judges, "STEPS", 40)
    heard: list[int] = []
    judge = own_judges.judge_for(str(sorted_folder), list(INKS), heard.append)
    assert sum(heard) == 40 and judge.objects == ["leaf", "none", "pond", "rose"]
    asked = ["rose", "pond", "none", "leaf"] * 3
    right = sum(a == b for a, b in zip(judge.judge(pixels(asked, seed=9)).objects, asked))
    assert right >= 9, "other pictures of the same things"
    told = own_judges.stated(judge)
    assert set(told) == {*INKS, "none"} and told["rose"]["n"] == 5 and told["rose"]["missed_at_most"] > 0
    assert own_judges.errors_about(judge, ["rose"]) == {
        "judge_missed": told["rose"]["missed"], "judge_false": told["rose"]["false"],
    }  # fmt: skip
    again = own_judges.judge_for(str(sorted_folder), list(INKS), heard.append)
    assert sum(heard) == 40, "kept until a picture changes"
    assert torch.equal(again.judge(pixels(asked, 9)).object_probs, judge.judge(pixels(asked, 9)).object_probs)
    assert own_judges.errors_about(own_judges.judge_for("emoji-sd", []), ["rose"]) == {}
    flat = tmp_path / "flat"
    flat.mkdir()
    drawn("rose", random.Random(0)).save(flat / "0.png")
    with pytest.raises(RegistryError, match="pictures that nobody has sorted"):
        own_judges.judge_for(str(flat), ["rose"])


def test_a_judge_reads_pictures_as_they_look(
    sorted_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = shutil.copytree(sorted_folder, tmp_path / "own")
    Image.fromarray(np.full((64, 64), 32896, np.uint16)).save(own / "leaf" / "deep.png")
    found = train_judge.read_sorted(own)
    assert (found.pixels == 128 / 255).flatten(1).all(1).sum() == 1, "16 bits, which are not all white"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ConceptGuardError, match="is no picture that can be read"):
        train_judge.read_sorted(own)


def test_few_pictures_are_not_calibrated_on(sorted_folder: Path) -> None:
    found = train_judge.read_sorted(sorted_folder)
    few = [i for label in range(4) for i in (found.labels == label).nonzero()[:10, 0].tolist()]
    some = train_judge.Sorted(found.names, found.pixels[few], found.labels[few])
    made = train_judge.train(some, steps=2)
    assert made.temperature == 1.0 and made.stated["rose"]["n"] == 2
    assert train_judge.train(found, steps=2).stated["rose"]["n"] == 5


def clip(folder: Path, tokenizer: Any, kind: str) -> Any:
    """A tiny CLIP or SigLIP with random weights, saved as such models are."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        SiglipConfig,
        SiglipImageProcessor,
        SiglipModel,
    )

    torch.manual_seed(0)
    text = {"vocab_size": 49408, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 77, "eos_token_id": 49407}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    size = {"height": 32, "width": 32}
    if kind == "clip":
        model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
        processor: Any = CLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), tokenizer)
        processor.save_pretrained(folder)
    else:
        model = SiglipModel(SiglipConfig(text_config=text | {"max_position_embeddings": 64}, vision_config=vision))
        SiglipImageProcessor(size=size).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model


def taught(model: Any, judge_texts: dict[str, str], tokenizer: Any, steps: int = 60) -> None:
    """Pictures and their captions are brought together, as CLIP is trained."""
    names, draw = list(judge_texts), random.Random(1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    tokens = tokenizer(list(judge_texts.values()), padding=True, return_tensors="pt")
    mean, std = torch.tensor([0.481, 0.458, 0.408]), torch.tensor([0.269, 0.261, 0.276])
    for step in range(steps):
        chosen = [draw.choice(names) for _ in range(16)]
        shown = (pixels(chosen, step, 32) - mean[:, None, None]) / std[:, None, None]
        logits = model(**tokens, pixel_values=shown).logits_per_image
        loss = cross_entropy(logits, torch.tensor([names.index(name) for name in chosen]))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()


def test_a_clip_on_disk_judges_by_words(tokenizer: Any, tmp_path: Path) -> None:
    model = clip(tmp_path, tokenizer, "clip")
    taught(model, {name: f"a photo of a {name}" for name in INKS}, tokenizer)
    model.save_pretrained(tmp_path)
    judge = own_judges.judge_for(str(tmp_path), {name: [f"a {name}"] for name in INKS})
    assert judge.objects == [*INKS, "none"] and isinstance(judge, own_judges.WordJudge)
    asked = list(INKS) * 4
    seen = judge.judge(pixels(asked, seed=77))
    assert sum(a == b for a, b in zip(seen.objects, asked)) >= 10
    assert torch.allclose(seen.object_probs.sum(1), torch.ones(12)) and seen.styles == ["any"] * 12
    assert own_judges.stated(judge) == {}, "nobody has measured how it errs"
    assert judge.judge(torch.zeros(0, 3, 8, 8)).objects == []
    # What it compares is what transformers compares.
    shown = {"images": [pixels(["rose"], 3)[0]], "text": ["a leaf"], "do_rescale": False}
    given = judge.model.processor(**shown, return_tensors="pt")
    with torch.no_grad():
        theirs = judge.model.model(**given).logits_per_image
    ours = judge.model.scale * judge.model.pictures(pixels(["rose"], 3)) @ judge.model.texts(["a leaf"]).T
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_a_siglip_reads_texts_that_fill_its_window(tokenizer: Any, tmp_path: Path, monkeypatch: Any) -> None:
    clip(tmp_path, tokenizer, "siglip").save_pretrained(tmp_path)
    own = both(tmp_path, tokenizer)
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda folder, **options: own)
    judge = own_judges.judge_for(f"siglip:{tmp_path}", list(INKS))
    assert judge.model.padding == "max_length"
    probs = judge.judge(pixels(["rose", "leaf"], 0)).object_probs
    assert probs.shape == (2, 4) and bool(probs.isfinite().all())


def both(folder: Path, tokenizer: Any) -> Any:
    """SigLIP's own tokenizer needs a file of sentencepiece: here is CLIP's in its place."""
    from transformers import SiglipImageProcessor

    looks = SiglipImageProcessor.from_pretrained(folder)

    def process(text: Any = None, images: Any = None, **options: Any) -> Any:
        if images is not None:
            return looks(images=images, **options)
        return tokenizer(text, max_length=64, **options)

    return process


def test_a_cut_model_is_told(tokenizer: Any, tmp_path: Path) -> None:
    clip(tmp_path, tokenizer, "clip").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RegistryError, match="no model of pictures and texts that can be loaded"):
        own_judges.judge_for(str(tmp_path), list(INKS))
    with pytest.raises(RegistryError, match="no clip there"):
        own_judges.judge_for(f"clip:{tmp_path / 'nonesuch'}", list(INKS))


def test_the_judge_on_the_page_is_a_plugins_and_asked_by_its_name() -> None:
    page = (ROOT / "docs" / "guides" / "evaluate.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (block,) = (one for one in blocks if "JudgeResult" in one)
    names: dict[str, Any] = {}
    exec(block, names)
    plugins.plugin_manager().register(names["Reddest"], name="reddest")
    try:
        judge = own_judges.judge_for("reddest:0.1", {"rose": ["a rose"], "pond": ["a pond"]})
        assert judge.least == 0.1 and judge.judge(pixels(["rose", "pond"], 0)).objects == ["rose", "none"]
    finally:
        plugins.plugin_manager().unregister(name="reddest")
    with pytest.raises(RegistryError, match="no judge for 'reddest"):
        own_judges.judge_for("reddest:0.1", ["rose"])
