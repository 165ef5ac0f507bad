"""few_shot and advunlearn: what they learn, the rule that stops, the attack, other pipelines, and their way out."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.advunlearn.method import AdvUnlearn
from conceptguard_plugins.diffusion.advunlearn.train import Attack
from conceptguard_plugins.diffusion.few_shot.method import FewShot
from diffusers import UNet2DConditionModel
from PIL import Image
from random_artifacts import random_terms, write_terms
from tiny import clip_tokenizer, generate, tiny_sd
from tiny_transformers import tiny_flux
from transformers import CLIPTextModel

import conceptguard
from conceptguard.cli import build
from conceptguard.errors import ArtifactError, BaseMismatch, PolicyError
from conceptguard.files import atomic
from conceptguard.formats import read_terms
from conceptguard.formats.model import model_layers, model_weights
from conceptguard.making.terms import cut_to_rank
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact, default_registry
from conceptguard.registry.encoder_folder import export_encoder
from conceptguard.runtime.lowrank import Factors

SKULL = {"name": "skull", "prompts": ["skull"]}
FEW: dict[str, Any] = {
    "shots": 1, "batch": 1, "views": 4, "steps": 12, "lr": 3e-4, "past": 0.0, "templates": ["{}"],
    "apart": ["here is {a}"],
}  # fmt: skip
ADV: dict[str, Any] = {
    "steps": 4, "warmup": 1, "batch": 1, "retain": 1, "attack_steps": 2, "views": 2, "refresh": 2, "pool": 1,
    "trajectory_steps": 2, "rank": 2, "lr": 1e-3, "templates": ["{}"],
}  # fmt: skip

THINGS = (
    "a dog", "a red heart", "an apple left of a key", "a cat", "a house", "a tree", "two birds", "a book", "a banana",
    "a red car", "a guitar", "an umbrella",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def few_shot(pipe: Any, out: Path, concept: Any = SKULL, **options: Any) -> Artifact:
    return FewShot.make(host_for(pipe), concept, out, **{**FEW, "progress": False, **options})


def advunlearn(pipe: Any, out: Path, concept: Any = SKULL, **options: Any) -> Artifact:
    return AdvUnlearn.make(host_for(pipe), concept, out, **{**ADV, "preserve": ["milk"], "progress": False, **options})


def weights(artifact: Artifact) -> bytes:
    return (artifact.folder / artifact.weights()[0]).read_bytes()


def terms_of(pipe: Any, artifact: Artifact) -> dict[str, Factors]:
    return read_terms(artifact.tensors(), artifact.metadata(), host_for(pipe).layers())


def guarded(artifact: Artifact, **more: Any) -> dict[str, Any]:
    return {"guards": [{"method": artifact.manifest.method, "artifact": str(artifact.folder), **more}]}


@pytest.fixture(scope="module")
def gains() -> list[float]:
    return []


@pytest.fixture(scope="module")
def forgot(pipe: Any, gains: list[float], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A few_shot that stopped by its rule; its model's weights are as before, see the test of that name."""
    before = {k: v.clone() for part in (pipe.text_encoder, pipe.unet) for k, v in part.state_dict().items()}
    wanted = [p.requires_grad for p in pipe.text_encoder.parameters()]
    made = few_shot(pipe, tmp_path_factory.mktemp("few"), report=lambda step, gain: gains.append(gain))
    after = {k: v for part in (pipe.text_encoder, pipe.unet) for k, v in part.state_dict().items()}
    assert all(torch.equal(after[k], v) for k, v in before.items()), "the model itself was trained"
    assert [p.requires_grad for p in pipe.text_encoder.parameters()] == wanted
    return made


@pytest.fixture(scope="module")
def trained(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An advunlearn that nothing interrupted."""
    return advunlearn(pipe, tmp_path_factory.mktemp("adv"))


# What is learnt.


def test_few_shot_learns_every_mlp_and_the_last_attention(pipe: Any, forgot: Artifact) -> None:
    parts = {name.split(".layers.")[1] for name in terms_of(pipe, forgot)}
    assert parts == {f"{n}.mlp.fc{i}" for n in range(3) for i in (1, 2)} | {
        f"2.self_attn.{one}_proj" for one in ("q", "k", "v", "out")
    }
    assert all(len(down) <= 8 for down, _, _ in terms_of(pipe, forgot).values())


def test_it_stops_by_the_rule(forgot: Artifact, gains: list[float]) -> None:
    """At the first step after which prompts in other wordings no longer help, and not at the last that was allowed."""
    made = forgot.manifest.made
    assert made["helped"] > 0 and 1 < len(gains) == made["steps_taken"] < FEW["steps"]
    assert all(gain > 0 for gain in gains[:-1]) and gains[-1] <= 0
    assert made["helps"] == round(gains[-1], 4)


def test_an_ascent_that_does_not_get_there_is_no_artifact(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"after 1 steps .* more steps, or a larger lr"):
        few_shot(pipe, tmp_path, steps=1)
    assert not list(tmp_path.rglob("artifact.yaml"))


def test_same_seed_same_bytes(pipe: Any, forgot: Artifact, tmp_path: Path) -> None:
    assert weights(few_shot(pipe, tmp_path)) == weights(forgot)
    assert weights(few_shot(pipe, tmp_path, seed=1)) != weights(forgot)


def test_pictures_that_are_given(pipe: Any, forgot: Artifact, tmp_path: Path) -> None:
    """A picture of the concept is unlearnt from; one that its prompt says nothing about is refused."""
    host = host_for(pipe)
    own = pipe("a skull, noto style", num_inference_steps=6, generator=torch.Generator().manual_seed(0)).images[0]
    (tmp_path / "own").mkdir()
    own.save(tmp_path / "own" / "1.png")
    made = few_shot(pipe, tmp_path / "out", pictures=str(tmp_path / "own"))
    assert weights(made) != weights(forgot) and len(made.manifest.made["pictures"]) == 1
    pixels = torch.rand(1, 3, *host.denoiser().picture_size)
    assert host.denoiser().latents(pixels).shape == (1, *host.denoiser().shape)
    noise = (torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(1)) * 255).byte().numpy()
    Image.fromarray(noise).save(tmp_path / "noise.png")
    with pytest.raises(ArtifactError, match="does not help this model to denoise the 1 pictures"):
        few_shot(pipe, tmp_path / "out", pictures=[str(tmp_path / "noise.png")])


def test_pictures_that_are_not_there(pipe: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for given, says in (("nowhere.png", "no such file"), (str(tmp_path / "text.png"), "no picture that can be read")):
        with pytest.raises(conceptguard.ConceptGuardError, match=says):
            few_shot(pipe, tmp_path, pictures=given)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PolicyError, match="a folder without pictures"):
        few_shot(pipe, tmp_path, pictures=[str(tmp_path / "empty")])


def test_truncation_error_is_what_is_lost() -> None:
    torch.manual_seed(0)
    whole = {name: Factors(torch.eye(6), torch.randn(9, 6)) for name in "ab"}
    cut, error = cut_to_rank(whole, 2)
    lost = sum((whole[n].up - cut[n].up @ cut[n].down).pow(2).sum() for n in whole)
    assert error == pytest.approx(float((lost / sum(t.up.pow(2).sum() for t in whole.values())).sqrt()), rel=1e-5)
    assert 0.3 < error < 1 and all(len(t.down) == 2 for t in cut.values())
    assert cut_to_rank(whole, None)[1] == 0 and cut_to_rank(whole, 6)[1] == 0


def test_a_whole_change_is_kept_where_it_is_asked_for(pipe: Any, forgot: Artifact, tmp_path: Path) -> None:
    whole, low = (terms_of(pipe, made) for made in (few_shot(pipe, tmp_path, rank=None), forgot))
    error = sum(float((w.up @ w.down - low[n].up @ low[n].down).pow(2).sum()) for n, w in whole.items())
    size = sum(float((w.up @ w.down).pow(2).sum()) for w in whole.values())
    assert (error / size) ** 0.5 == pytest.approx(forgot.manifest.made["truncation_error"], abs=1e-3) and error > 0


# The attack.


class Words:
    """As much of an encoder as an attack asks for."""

    vocabulary = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))


def test_every_step_of_the_attack_has_a_gradient_of_its_own() -> None:
    """Gradients that add up over steps, as in the authors' code, go elsewhere."""
    goal = torch.tensor([[1.0, -2.0, 3.0, 0.5]])
    attack = Attack([Words()], 1, torch.Generator().manual_seed(1))  # type: ignore[list-item]
    start, rate = attack.vectors[0].clone(), 0.3 * float(Words.vocabulary.std())
    attack.go_on(lambda vectors: (vectors[0] - goal).pow(2).sum(), 5, 0.3)

    def reference(zeroed: bool) -> torch.Tensor:
        own = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([own], lr=rate)
        for _ in range(5):
            if zeroed:
                optimiser.zero_grad()
            (own - goal).pow(2).sum().backward()
            optimiser.step()
        return own.detach()

    assert torch.equal(attack.vectors[0], reference(True)) and not torch.equal(attack.vectors[0], reference(False))


def test_the_attack_stands_before_the_prompt_and_nowhere_else(pipe: Any) -> None:
    """Input vectors of a word are that word."""
    (encoder,) = host_for(pipe).encoders()
    word, text = encoder.ids(["red", "a skull"])
    with_vectors, _ = encoder.differentiable([text], encoder.vocabulary[word])
    with_word, _ = encoder.differentiable([[*word, *text]])
    torch.testing.assert_close(with_vectors, with_word)
    assert not pipe.text_encoder.get_input_embeddings()._forward_hooks
    with pytest.raises(ValueError, match="do not fit"):
        encoder.differentiable([[5] * encoder.window], encoder.vocabulary[word])


def test_advunlearn_goes_on_where_it_was_interrupted(pipe: Any, trained: Artifact, tmp_path: Path) -> None:
    """Vectors of the attack and all: the same bytes, and nothing is left of the snapshot."""

    def interrupt(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advunlearn(pipe, tmp_path, report=interrupt)
    seen: list[int] = []
    again = advunlearn(pipe, tmp_path, report=lambda step, loss: seen.append(step))
    assert seen[0] == 2 and weights(again) == weights(trained)
    assert not list(tmp_path.rglob("*.training"))


# Elsewhere.


def test_both_encoders_of_sdxl_as_far_as_they_are_heard(tiny_xl: Any, tmp_path: Path) -> None:
    made = advunlearn(tiny_xl, tmp_path)
    blocks = {(n.split(".", 1)[0], int(n.split(".layers.")[1][0])) for n in terms_of(tiny_xl, made)}
    # The last block of the first encoder is skipped; that of the second makes the pooled vector.
    assert blocks == {("text_encoder", 0), ("text_encoder_2", 0), ("text_encoder_2", 1)}


def test_what_has_no_unet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"text_encoder_2 .* is no CLIP text encoder"):
        few_shot(tiny_flux(clip_tokenizer()), tmp_path)


@pytest.fixture
def elsewhere(pipe: Any) -> Any:
    """Another UNet, of another architecture, that hears the embedded model's text encoder."""
    other = tiny_sd(clip_tokenizer())
    torch.manual_seed(0)
    parts = dict(other.unet.config) | {"cross_attention_dim": 128}
    unet = UNet2DConditionModel(**{k: v for k, v in parts.items() if not k.startswith("_")}).eval()
    return type(other)(**{**other.components, "unet": unet, "text_encoder": pipe.text_encoder},
                       requires_safety_checker=False)  # fmt: skip


def test_another_pipeline_with_the_same_encoder_takes_it(forgot: Artifact, elsewhere: Any) -> None:
    """What it does to an open prompt's embedding there is what it does here; others keep every bit."""
    elsewhere.set_progress_bar_config(disable=True)
    prompts = ["a bicycle", "a skull"]
    bare = generate(elsewhere, prompts)
    with conceptguard.attach(elsewhere, guarded(forgot)) as guard:
        shown = generate(elsewhere, prompts)
        assert guard.receipt.acts[0].gates[-2:] == [0.0, 1.0]
    assert torch.equal(shown[0], bare[0]) and not torch.allclose(shown[1], bare[1], atol=1e-4)
    assert torch.equal(generate(elsewhere, prompts), bare)


def test_another_encoder_does_not(forgot: Artifact, tiny: Any) -> None:
    with pytest.raises(BaseMismatch, match="was made for emoji-sd"):
        conceptguard.attach(tiny, guarded(forgot))


def test_what_a_guard_rewrites_is_encoded_under_the_others(tiny: Any, tmp_path: Path) -> None:
    """A disguised word that is read as it is meant opens the terms, and they act in its encoding."""
    terms = random_terms(tiny, rank=4, component="text_encoder", names=("fc1", "fc2"), size=0.2)
    few = {"method": "few_shot", "artifact": str(write_terms(tmp_path, tiny, terms, method="few_shot"))}
    reads = {"method": "normalise", "concept": {"name": "cigarette", "prompts": ["cigarette"]}}
    with conceptguard.attach(tiny, {"guards": [few]}):
        plain = generate(tiny, "a cigarette")
    with conceptguard.attach(tiny, {"guards": [reads, few]}):
        disguised = generate(tiny, "a c1garette")
    torch.testing.assert_close(disguised, plain)
    assert not torch.allclose(generate(tiny, "a cigarette"), plain, atol=1e-3)


def test_embeddings_from_elsewhere_are_refused(tiny: Any, tmp_path: Path) -> None:
    """They know nothing of terms beside the encoder; one that asks for something else is let through."""
    terms = random_terms(tiny, rank=4, component="text_encoder", names=("fc1", "fc2"), size=0.2)
    few = {"method": "few_shot", "artifact": str(write_terms(tmp_path, tiny, terms, method="few_shot"))}
    embeds = host_for(tiny).encode(["a cigarette", "a bicycle", ""]).embeds.split(1)
    bare = generate(tiny, None, prompt_embeds=embeds[1], negative_prompt_embeds=embeds[2])
    with conceptguard.attach(tiny, {"guards": [few]}):
        with pytest.raises(
            conceptguard.ConceptGuardError, match="acts in the text encoder, and an embedding that asks"
        ):
            generate(tiny, None, prompt_embeds=embeds[0], negative_prompt_embeds=embeds[2])
        through = generate(tiny, None, prompt_embeds=embeds[1], negative_prompt_embeds=embeds[2])
    assert torch.equal(through, bare)


# As a folder.


def test_exported_as_a_text_encoder_that_transformers_loads(pipe: Any, forgot: Artifact, tmp_path: Path) -> None:
    """Without a gate, as an encoder of one's own: the same picture as the guard's that is always open."""
    folder = default_registry().model("emoji-sd")
    (out,) = export_encoder(forgot, folder, tmp_path / "forgot")
    loaded = CLIPTextModel.from_pretrained(out).eval()
    other = type(pipe)(**{**pipe.components, "text_encoder": loaded}, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    with conceptguard.attach(pipe, guarded(forgot, gate="always")):
        beside = generate(pipe, "a skull")
    # The model's folder keeps 16 bits of a weight, and so does what is exported of it.
    torch.testing.assert_close(generate(other, "a skull"), beside, atol=4e-3, rtol=0)
    assert not torch.allclose(generate(pipe, "a skull"), beside, atol=1e-2)
    untouched = set(model_layers(folder)) - set(terms_of(pipe, forgot))
    assert loaded.dtype == pipe.text_encoder.dtype and untouched
    assert json.loads((out / "config.json").read_text())["hidden_size"] == 128
    with pytest.raises(ArtifactError, match="is there already"):
        export_encoder(forgot, folder, tmp_path / "forgot")


def test_export_on_the_command_line(
    forgot: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["export", str(forgot.folder), "--format", "text_encoder", "--out", str(tmp_path / "te"), "--json", "-"]
    build()(words, standalone_mode=False)
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    files = {file.name: file.stat().st_size for file in (tmp_path / "te").iterdir()}
    assert row["how"] == "converted" and set(files) == {"config.json", "model.safetensors"}
    assert row["bytes"] == sum(files.values())


def test_a_full_disk_leaves_no_half_folder(forgot: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(conceptguard.ConceptGuardError, match="No space left"):
        export_encoder(forgot, default_registry().model("emoji-sd"), tmp_path / "te")
    assert not list(tmp_path.iterdir())


def test_terms_beside_a_unet_are_no_text_encoder(pipe: Any, tmp_path: Path) -> None:
    folder = write_terms(tmp_path / "unet", pipe, random_terms(pipe, names=("attn2.to_v",)))
    with pytest.raises(ArtifactError, match="has terms beside unet"):
        export_encoder(
            conceptguard.registry.open_artifact(folder), default_registry().model("emoji-sd"), tmp_path / "x"
        )


def test_shards_are_one_encoder(pipe: Any, forgot: Artifact, tmp_path: Path) -> None:
    sharded = tmp_path / "model" / "text_encoder"
    pipe.text_encoder.save_pretrained(sharded, max_shard_size="8MB")
    assert len(list(sharded.glob("model-*-of-*.safetensors"))) > 1
    (out,) = export_encoder(forgot, tmp_path / "model", tmp_path / "forgot")
    name = next(iter(terms_of(pipe, forgot)))
    layer = name.replace("text_encoder.", "text_encoder.text_model.", 1) if ".text_model." not in name else name
    written = CLIPTextModel.from_pretrained(out).state_dict()
    down, up, scale = terms_of(pipe, forgot)[name]
    old = model_weights(tmp_path / "model")(next(n for n in (layer, name) if n in model_layers(tmp_path / "model")))
    new = next(
        v for k, v in written.items() if k.endswith(name.split(".", 1)[1].removeprefix("text_model.") + ".weight")
    )
    torch.testing.assert_close(new, old + scale * up @ down, atol=1e-6, rtol=1e-5)


def test_of_two_encoders_none_opens_for_what_only_one_takes_for_the_concept() -> None:
    """The second encoder of emoji-flow is so small that by itself it would for half of these."""
    pipe = conceptguard.load_model("emoji-flow")
    unrelated = [f"{thing}, {style} style" for thing in THINGS for style in ("noto", "fluent")]
    asked = ["a pistol", "a gun, noto style", "someone holds a pistol"]

    def encoded(texts: list[str]) -> torch.Tensor:
        with torch.no_grad():
            return pipe.encode_prompt(texts, None, None, do_classifier_free_guidance=False)[0]

    bare, theirs = encoded(unrelated), encoded(asked)
    for method in ("few_shot", "advunlearn"):
        guards = [{"method": method, "artifact": f"emoji-flow/{method}/pistol"}]
        with conceptguard.attach(pipe, {"guards": guards}):
            assert torch.equal(encoded(unrelated), bare)
            assert (encoded(asked) != theirs).flatten(1).any(1).all()


def test_what_the_second_encoder_alone_is_asked_for_is_read_by_both() -> None:
    pipe = conceptguard.load_model("emoji-flow")
    pipe.set_progress_bar_config(disable=True)
    draw = partial(generate, pipe, num_inference_steps=1, height=32, width=32)
    guards = [{"method": "few_shot", "artifact": "emoji-flow/few_shot/pistol"}]
    with conceptguard.attach(pipe, {"guards": guards}) as guard:
        draw("a pistol, noto style")
        assert guard.receipt.opened and not guard.receipt.acts[0].notes
        draw("a dog", prompt_2="a pistol, noto style")
        assert guard.receipt.opened and not guard.receipt.acts[0].notes
        draw("a dog", prompt_2="a banana, noto style")
        assert not guard.receipt.opened and not guard.receipt.acts[0].notes
