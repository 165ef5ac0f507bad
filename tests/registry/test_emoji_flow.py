"""How emoji-flow is built: it begins with what emoji-sd knows, it learns, and what is written can be guarded."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import untaught_flow
from conceptguard_registry.build.emoji_flow import counted, flow, models, text, vae
from conceptguard_registry.build.emoji_sd.models import EOS
from conceptguard_registry.build.emoji_sd.text import encode
from conceptguard_registry.build.emoji_sd.vae import encode as latents_of
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch.utils.data import DataLoader
from transformers import CLIPTokenizer

import conceptguard

CAPTIONS = ["a dog, noto style", "two cats beside a car"]
DOG = {"name": "dog", "prompts": ["dog"]}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def said() -> Any:
    net = untaught_flow.net()
    return text.embed(net["clip_l"], net["clip_g"], encode(untaught_flow.tokenizer(), CAPTIONS))


@torch.no_grad()
def test_the_first_encoder_says_what_emoji_sd_was_taught(generator: torch.Generator) -> None:
    theirs = text.start_from(untaught_flow.start())
    words = theirs.get_input_embeddings().weight
    words.copy_((words / models.GRID).round() * models.GRID)
    ids = encode(untaught_flow.tokenizer(), CAPTIONS)
    end = (ids == EOS).int().argmax(1)
    states = theirs(ids).last_hidden_state
    own, pooled = said()
    assert torch.allclose(pooled[:, : models.L_WIDTH], states[[0, 1], end], atol=1e-4)
    norm = next(m for name, m in theirs.named_modules() if name.endswith("final_layer_norm"))
    assert torch.allclose(norm(own[..., : models.L_WIDTH]), states, atol=1e-4)


def test_another_text_encoder_is_refused() -> None:
    other = models.make_clip_g()
    with pytest.raises((ValueError, RuntimeError), match=r"emoji-sd's text encoder|size mismatch"):
        models.clip_l_from(other)
    with pytest.raises(FileNotFoundError, match=r"neither text_encoder/ nor text.pt"):
        text.start_from(Path("nowhere"))


@torch.no_grad()
@pytest.mark.parametrize("n", [0, 1, 256])
def test_one_token_is_as_many_zeros_as_it_counts(n: int, generator: torch.Generator) -> None:
    """With attention as diffusers has it, and as many zeros in T5's place."""
    net = untaught_flow.net()
    wide = models.make_transformer().eval()
    wide.load_state_dict(models.widened(net["transformer"].state_dict()))
    states, pooled = said()
    x, at = torch.randn(2, 16, 16, 16, generator=generator), torch.tensor([500.0, 900.0])
    theirs = wide(x, torch.nn.functional.pad(states, (0, models.JOINT - models.TEXT, 0, n)), pooled, at).sample
    attention = counted.CountedAttention()
    attention.counts = torch.ones(2, 78)
    attention.counts[:, -1] = n
    net["transformer"].set_attn_processor(attention)
    try:
        mine = net["transformer"](x, text.with_zero(states), pooled, at).sample
        attention.counts[:, -1] = n + 100
        other = net["transformer"](x, text.with_zero(states), pooled, at).sample
    finally:
        net["transformer"].set_attn_processor(JointAttnProcessor2_0())
    assert (mine - theirs).abs().max() < 1e-4
    assert (other - theirs).abs().max() > 1e-3  # so that the number of them does matter


def test_padding_that_is_cut_counts_for_all_of_it(generator: torch.Generator) -> None:
    tokenizer = untaught_flow.tokenizer()
    for length in (48, 77):
        ids = encode(tokenizer, [*CAPTIONS, "word " * 90], length)
        found = counted.counts(ids, generator)
        assert found.shape == (3, length + 1)
        assert found[:2, :-1].sum(1).tolist() == pytest.approx([77, 77])
        assert found[2, :-1].tolist() == [1.0] * length
    zeros = counted.zeros(4000, generator)
    for n in (0, 256):
        assert (zeros == n).float().mean() == pytest.approx(0.4, abs=0.03)
    assert zeros.max() > 400 and ((zeros > 0) & (zeros < 20)).any()


@torch.no_grad()
def test_latents_are_spread_and_scaled_as_in_sd3(generator: torch.Generator) -> None:
    theirs = AutoencoderKL.from_pretrained(untaught_flow.start() / "vae", torch_dtype=torch.float32)
    mine = vae.spread(theirs)
    images = (torch.rand(6, 128, 128, 3, generator=generator) * 255).byte().numpy()
    images[:, 32:96, 16:80] = np.arange(6, dtype=np.uint8)[:, None, None, None] * 40

    def again(model: Any) -> torch.Tensor:
        x = torch.from_numpy(images[:2]).permute(0, 3, 1, 2) / 127.5 - 1
        return model.decode(model.encode(x).latent_dist.mean).sample

    before = again(theirs)
    assert (again(mine) - before).abs().max() < 1e-3
    vae.standardise(mine, images)
    z = (latents_of(mine, images) - models.OFFSET) * models.SCALING
    assert z.mean((0, 2, 3)).abs().max() < 1e-3 and (z.std((0, 2, 3)) - 1).abs().max() < 1e-3
    shifted = again(mine)
    assert (shifted - before).abs().mean() < 0.25 * before.std()  # the margin of zeros is now one of means
    vae.standardise(mine, images[:3], shift=False)
    z = latents_of(mine, images[:3]) * models.SCALING
    assert (z.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert (again(mine) - shifted).abs().max() < 1e-3


def test_noise_levels_are_those_that_sampling_asks(generator: torch.Generator) -> None:
    found = flow.levels(4000, generator)
    assert found.min() > 0 and found.max() < 1
    assert found.median() == pytest.approx(models.SHIFT / (1 + models.SHIFT), abs=0.01)
    asked = models.make_scheduler()
    asked.set_timesteps(1000)
    assert asked.sigmas[:-1].median() == pytest.approx(float(found.median()), abs=0.02)


def test_training_learns_and_resumes_to_the_last_bit(tmp_path: Path, generator: torch.Generator) -> None:
    from conceptguard_registry.build.emoji_sd.latents import Latents
    from conceptguard_registry.build.emoji_sd.scenes import random_scene

    from conceptguard.measuring.suite import load_suite

    suite, rng = load_suite("emoji-sd"), np.random.default_rng(0)
    scenes = [random_scene(suite, "noto", it, rng) for it in suite.objects[:2]]
    data = Latents(torch.randn(2, 16, 1, 1, generator=generator).expand(2, 16, 16, 16).contiguous(), scenes)
    recipe = flow.FlowRecipe(batch=4, lr=0.04)

    def training() -> flow.Training:
        torch.manual_seed(0)
        return flow.Training(recipe, untaught_flow.start(), torch.device("cpu"))

    def run(train: flow.Training, steps: int) -> list[float]:
        losses = []
        for (z, ids, gen), _ in zip(flow.batches(data, train.tokenizer, recipe, train.step), range(steps)):
            loss = flow.flow_loss(train.net, train.attention, z, ids, gen)
            train.update(loss, 0.5)
            losses.append(float(loss.detach()))
        return losses

    first = training()
    untaught = {name: p.clone() for name, p in first.net.named_parameters() if not p.requires_grad}
    losses = run(first, 6)
    first.save(tmp_path / "flow.pt")
    losses += run(first, 2)
    assert np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2]), losses
    assert {name.split(".")[0] for name in untaught} == {"clip_l", "clip_g"}
    assert all(torch.equal(p, dict(first.net.named_parameters())[name]) for name, p in untaught.items())
    second = training()
    second.resume(tmp_path / "flow.pt")
    assert second.step == 6
    assert run(second, 2) == losses[-2:]
    assert all(torch.equal(p, q) for p, q in zip(first.ema.parameters(), second.ema.parameters(), strict=True))


def test_workers_write_the_same_captions_in_the_same_order() -> None:
    from conceptguard_registry.build.emoji_sd.scenes import random_scene

    from conceptguard.measuring.suite import load_suite

    suite, rng = load_suite("emoji-sd"), np.random.default_rng(0)
    scenes = [random_scene(suite, "noto", it, rng) for it in suite.objects[:8]]
    tokenizer = CLIPTokenizer.from_pretrained(untaught_flow.start() / "tokenizer")
    steps = flow.Steps(scenes, tokenizer, flow.FlowRecipe(batch=3), 2, 0, 1)
    alone, shared = (itertools.islice(DataLoader(steps, batch_size=None, num_workers=n), 5) for n in (0, 2))
    for (pick, ids), (theirs, read) in zip(alone, shared, strict=True):
        assert torch.equal(pick, theirs) and torch.equal(ids, read)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untaught_flow.exported(tmp_path_factory.mktemp("flow"))


def test_what_is_written_is_loaded_and_guarded(exported: Path) -> None:
    from conceptguard_registry.build.emoji_flow.card import write_card
    from conceptguard_registry.build.emoji_sd.measure import Both, Figures

    pipe = conceptguard.load_model(str(exported))
    assert type(pipe).__name__ == "StableDiffusion3Pipeline" and pipe.text_encoder_3 is None
    net = untaught_flow.net()
    for name, module in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        own, written = net[module].state_dict(), getattr(pipe, name).state_dict()
        words = "text_model.embeddings.token_embedding.weight"
        assert torch.equal(own[words], written[words])  # on the grid, fp16 loses nothing
        assert all(torch.allclose(own[key], written[key], atol=1e-2) for key in own)
    assert [pipe.tokenizer.pad_token_id, pipe.tokenizer_2.pad_token_id] == [EOS, text.G_PAD]

    def drawn() -> torch.Tensor:
        seed = torch.Generator().manual_seed(0)
        return pipe(CAPTIONS[0], num_inference_steps=2, guidance_scale=3.5, generator=seed, output_type="pt").images

    bare = drawn()
    assert bare.shape == (1, 3, 128, 128)
    with conceptguard.attach(pipe, {"guards": [{"method": "sld", "concept": DOG}]}) as session:
        guarded = drawn()
        assert "open 1.00" in str(session.receipt)
    assert not torch.equal(guarded, bare)
    assert torch.equal(drawn(), bare)

    write_card(exported)
    assert "Not measured yet" in (exported / "README.md").read_text()
    write_card(exported, {"trained pairs": Figures(10, 0.9, 0.8), "two objects": Both(4, 0.5, 0.75)})
    assert "| trained pairs | 10 | 90.0% |  | 80.0% |" in (exported / "README.md").read_text()
