"""How emoji-sd-one-step is built: its teacher draws as its pipeline does, it learns, and what is written is a model."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_registry.build.emoji_sd.suite import load_suite
from conceptguard_registry.build.emoji_sd.text import encode
from conceptguard_registry.build.emoji_sd_one_step import delta, distil, export, prompts
from conceptguard_registry.build.emoji_sd_one_step.delta import Changed

import conceptguard
from conceptguard.measuring.judges import load_judge
from conceptguard.registry import shipped_folder
from conceptguard.testing import Case, contract_tests

TEXTS = ["a dog, noto style", "a red heart"]
TEACHER = shipped_folder() / "models" / "emoji-sd"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, as a pipeline draws."""
    for module in (distil, delta):
        monkeypatch.setattr(module, "quick", lambda latents: nullcontext())


def read(pipe: Any, texts: list[str]) -> torch.Tensor:
    return prompts.read(pipe.text_encoder, encode(pipe.tokenizer, texts))


def taught(pipe: Any, **options: Any) -> distil.Distilling:
    recipe = distil.Recipe(batch=4, rank=4, **options)
    return distil.Distilling(pipe.unet, read(pipe, TEXTS), read(pipe, [""])[0], recipe)


@pytest.mark.usefixtures("exact")
def test_the_teacher_draws_what_its_pipeline_draws(pipe: Any) -> None:
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    teacher = distil.Teacher(pipe.unet, read(pipe, [""])[0], distil.Levels(z.device))
    drawn = teacher.draw(z, read(pipe, TEXTS), 4)
    theirs = pipe(TEXTS, latents=z, num_inference_steps=4, guidance_scale=3.5, output_type="latent").images
    torch.testing.assert_close(drawn, theirs, atol=2e-3, rtol=1e-3)


@pytest.mark.usefixtures("exact")
def test_what_is_written_draws_in_one_step_what_was_learnt(pipe: Any, tmp_path: Path) -> None:
    """Of a change that was made up; the model's own files are not touched."""
    torch.manual_seed(0)
    net = Changed(pipe.unet, 2, 0)
    z, context = torch.randn(2, 4, 16, 16), read(pipe, TEXTS)
    levels = distil.Levels(torch.device("cpu"))
    with torch.no_grad():
        before = distil.generate(net, levels, z, context)
        own = pipe.unet(z, distil.TIME, context).sample
        torch.testing.assert_close(before, levels.clean(z, own, torch.full((2,), distil.TIME)))
        for up in net.up:
            up.normal_(0, 0.2)
        drawn = distil.generate(net, levels, z, context)
    export.export({name: one.half() for name, one in net.state_dict().items()}, TEACHER, tmp_path / "mine")
    model = conceptguard.load_model(str(tmp_path / "mine"))
    model.set_progress_bar_config(disable=True)
    theirs = model(TEXTS, latents=z, num_inference_steps=1, guidance_scale=1.0, output_type="latent").images
    assert (drawn - before).abs().mean() > 0.1
    torch.testing.assert_close(theirs, drawn, atol=2e-2, rtol=2e-2)


def test_it_learns_what_the_teacher_draws(tiny: Any) -> None:
    """In every phase: the first loss falls, the second network learns the generator's score, and the end is another."""
    one = taught(tiny)
    one._draw()
    one.noises, one.pictures, one.asked = ([torch.cat(kept)] for kept in (one.noises, one.pictures, one.asked))
    first = float(one._match().detach())
    for _ in range(40):
        one.optim.zero_grad()
        one._match().backward()
        one.optim.step()
    assert float(one._match().detach()) < 0.95 * first
    assert all(float(up.abs().max()) == 0 for up in one.fake.up)
    before = [up.detach().clone() for up in one.net.up]
    one.optim.zero_grad()
    one._distribute().backward()
    one.optim.step()
    assert any(float(up.abs().max()) > 0 for up in one.fake.up)
    assert any(not torch.equal(up, old) for up, old in zip(one.net.up, before))


def test_the_clock_ends_it_with_both_averages(tiny: Any) -> None:
    matched, found = taught(tiny, minutes=0.05, warmup=2).run()
    assert matched.keys() == found.keys() and found["up.0"].dtype == torch.float16
    assert any(not torch.equal(matched[name], found[name]) for name in found)


def test_captions_are_kept_and_ask_for_one_thing(pipe: Any, tmp_path: Path) -> None:
    ids = prompts.token_ids(pipe.tokenizer, 40, tmp_path)
    assert ids.shape == (40, 77) and torch.equal(ids, prompts.token_ids(pipe.tokenizer, 40, tmp_path, ["dog"]))
    said = pipe.tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert "" in said and len(set(said)) > 30


def test_of_some_objects_and_styles_alone() -> None:
    suite = load_suite()
    named = {(it.name, style) for it, style in prompts.chosen(suite, ["dog", "beer"], ["noto"])}
    assert named == {("dog", "noto"), ("beer", "noto")} and len(prompts.chosen(suite, [], [])) > 600
    with pytest.raises(KeyError, match="no such object or style: cta"):
        prompts.chosen(suite, ["cta"], [])


def shipped() -> Any:
    pipe = conceptguard.load_model("emoji-sd-one-step")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("method", ["sfd", "esd", "uce"])
def test_the_one_that_ships_draws_in_one_step_and_guards_erase_there(method: str) -> None:
    """Four of each object: beer is recognised, and no more under a guard; others are the same to the bit."""
    pipe, judge = shipped(), load_judge("emoji-sd")
    asked = [name for name in ("beer", "dog", "skull", "pumpkin") for _ in range(4)]

    def drawn() -> torch.Tensor:
        own = [torch.Generator().manual_seed(seed) for seed in range(len(asked))]
        return pipe([f"a {name}, noto style" for name in asked], num_inference_steps=1, guidance_scale=1.0,
                    generator=own, output_type="pt").images  # fmt: skip

    bare = drawn()
    with conceptguard.attach(pipe, {"guards": [{"method": method, "artifact": f"emoji-sd-one-step/{method}/beer"}]}):
        guarded = drawn()
    assert sum(name == seen for name, seen in zip(asked, judge.judge(bare).objects)) >= 14
    assert "beer" not in judge.judge(guarded[:4]).objects
    assert torch.equal(guarded[4:], bare[4:])


test_contract = contract_tests(
    Case(
        {"method": "sfd", "artifact": "emoji-sd-one-step/sfd/beer"},
        opens="a beer, noto style",
        unrelated=("a skull, noto style", "a dog, noto style"),
        load=shipped,
        steps=1,
    )
)
