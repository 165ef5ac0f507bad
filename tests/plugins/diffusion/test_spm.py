"""SPM: training that can be repeated and resumed to the bit, official files, transfer, and what a membrane does."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.spm import train
from conceptguard_plugins.diffusion.spm.method import SPM
from conceptguard_plugins.diffusion.spm.texts import Texts
from conceptguard_plugins.diffusion.spm.train import SPMMakeSettings, initial, layers_of
from safetensors.torch import save_file

import conceptguard
from conceptguard.concept import as_concept
from conceptguard.errors import ArtifactError, BaseMismatch, PolicyError
from conceptguard.generation.conditioning import pick
from conceptguard.making.walks import Walks
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact
from conceptguard.runtime.encodings import ordinary_captions

BEER = {"name": "beer", "prompts": ["beer", "lager"]}
QUICK: dict[str, Any] = {
    "steps": 6,
    "batch": 1,
    "anchors": 1,
    "trajectory_steps": 3,
    "warmup": 1,
    "templates": ["{}"],
    "progress": False,
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def kept_often() -> Iterator[None]:
    """Snapshots in the middle of a training of so few steps, and in the middle of a trajectory."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "SNAPSHOT_EVERY", 2)
        yield


def make(pipe: Any, out: Path, concept: Any = BEER, **options: Any) -> Artifact:
    return SPM.make(host_for(pipe), concept, out, **{"preserve": ["milk"], **QUICK, **options})


def weights(artifact: Artifact) -> bytes:
    return (artifact.folder / "beer_last.safetensors").read_bytes()


def generate(pipe: Any, prompt: str | list[str], **options: Any) -> torch.Tensor:
    n = 1 if isinstance(prompt, str) else len(prompt)
    seeds = [torch.Generator().manual_seed(i) for i in range(n)]
    found: torch.Tensor = pipe(prompt, num_inference_steps=2, generator=seeds, output_type="latent", **options).images
    return found


@pytest.fixture(scope="module")
def model_before(pipe: Any) -> tuple[dict[str, torch.Tensor], list[bool]]:
    """Weights, and which of them want a gradient, before anything here was trained."""
    weights_before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    return weights_before, [p.requires_grad for p in pipe.unet.parameters()]


@pytest.fixture(scope="module")
def made(pipe: Any, model_before: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The training that nothing interrupts."""
    return make(pipe, tmp_path_factory.mktemp("spm"))


@pytest.fixture(scope="module")
def interrupted(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, Path], None]:
    """What the same training leaves behind where it is interrupted after a step, copied into a folder."""
    left: dict[int, Path] = {}

    def copy_into(stop: int, folder: Path) -> None:
        def interrupt(step: int, loss: float) -> None:
            if step == stop:
                raise KeyboardInterrupt

        if stop not in left:
            left[stop] = tmp_path_factory.mktemp(f"stopped-{stop}")
            with pytest.raises(KeyboardInterrupt):
                make(pipe, left[stop], report=interrupt)
        shutil.copytree(left[stop], folder, dirs_exist_ok=True)

    return copy_into


def test_every_layer_of_every_transformer_has_a_rank_one_term(pipe: Any, made: Artifact) -> None:
    inside = [
        f"unet.{outer}.{inner}"
        for outer, block in pipe.unet.named_modules()
        if type(block).__name__ == "Transformer2DModel"
        for inner, module in block.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
    ]
    assert sorted(layers_of(list(host_for(pipe).layers()))) == sorted(inside)
    tensors = made.tensors()
    assert {k.rsplit(".", 2 if ".lora_" in k else 1)[0] for k in tensors} == {
        "lora_" + name.replace(".", "_") for name in inside
    }
    assert all(t.shape[0] == 1 for k, t in tensors.items() if k.endswith("lora_down.weight"))
    assert made.metadata() == {"prompts": "beer,lager", "rank": "1", "alpha": "1.0"}


def test_training_changes_something_and_leaves_the_model_alone(pipe: Any, model_before: Any, made: Artifact) -> None:
    before, wanted = model_before
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())
    assert [p.requires_grad for p in pipe.unet.parameters()] == wanted
    assert any(t.any() for k, t in made.tensors().items() if k.endswith("lora_up.weight"))
    assert not list(made.folder.parent.rglob("*.training"))


def test_same_seed_same_bytes(pipe: Any, made: Artifact, tmp_path: Path) -> None:
    assert weights(make(pipe, tmp_path / "again")) == weights(made)
    assert weights(make(pipe, tmp_path / "other", seed=1)) != weights(made)


@pytest.mark.parametrize("stop", [3, 4])
def test_interrupted_and_resumed_equals_uninterrupted(
    pipe: Any, made: Artifact, interrupted: Any, tmp_path: Path, stop: int
) -> None:
    """Also when it stops between two snapshots, and with trajectories that depend on the membrane so far."""
    interrupted(stop, tmp_path)
    seen: list[int] = []
    resumed = make(pipe, tmp_path, report=lambda step, loss: seen.append(step))
    assert seen[0] > 0
    assert weights(resumed) == weights(made)


def test_a_snapshot_of_other_settings_is_not_taken_up(pipe: Any, interrupted: Any, tmp_path: Path) -> None:
    interrupted(3, tmp_path)
    seen: list[int] = []
    make(pipe, tmp_path, lr=1e-4, report=lambda step, loss: seen.append(step))
    assert seen[0] == 0


def test_the_erasing_loss_falls(pipe: Any, tmp_path: Path) -> None:
    """Without anchors to hold it back, the first loss is the distance to the goal, and training comes nearer."""
    losses: list[float] = []
    make(
        pipe, tmp_path, steps=12, lr=0.1, la_strength=0.0, anchors=0, trajectory_steps=2, batch=4,
        report=lambda step, loss: losses.append(loss),
    )  # fmt: skip
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_anchors_are_real_prompts_and_likelier_when_far(pipe: Any) -> None:
    settings = SPMMakeSettings(templates=["{}"])
    texts = Texts(host_for(pipe), as_concept(BEER), ["bar mat", "milk"], settings, torch.Generator().manual_seed(0))
    assert texts.kept == ["bar mat", "milk"]
    assert len(texts.anchors.ids) == 2 + len(ordinary_captions())
    assert texts.distance.shape == (len(texts.anchors.ids),)
    ends = torch.stack([e[len(i) + 1] for e, i in zip(texts.anchors.embeds, texts.anchors.ids)])
    own = torch.nn.functional.normalize(
        torch.stack([e[len(i) + 1] for e, i in zip(texts.target.embeds, texts.target.ids)]), dim=-1
    ).mean(0)
    near = torch.cosine_similarity(ends, own[None]).abs()
    assert texts.distance[near.argmax()] == texts.distance.min()


def test_own_prompts_open_it_and_ordinary_ones_do_not(pipe: Any, made: Artifact) -> None:
    gate = made.manifest.gate
    assert gate is not None and gate["false_open"] == 0 and gate["missed_open"] == 0 and gate["floor"] < gate["full"]
    bare = generate(pipe, ["a red apple", "a picture of a beer"])
    with conceptguard.attach(pipe, {"guards": [{"method": "spm", "artifact": str(made.folder)}]}) as guard:
        images = generate(pipe, ["a red apple", "a picture of a beer"])
        opened = guard.receipt.acts[0].gates
    assert torch.equal(images[0], bare[0]) and not torch.equal(images[1], bare[1])
    assert sum(g > 0 for g in opened) == 1 and max(opened) == 1


def test_an_official_file_is_a_guard_by_its_path(pipe: Any, made: Artifact, tmp_path: Path) -> None:
    """Only the file, as the authors publish it: prompts from its metadata, the gate measured on this base."""
    path = tmp_path / "beer_last.safetensors"
    path.write_bytes(weights(made))
    with conceptguard.attach(pipe, {"guards": [{"method": "spm", "artifact": str(made.folder), "gate": 1.0}]}):
        ours = generate(pipe, "a beer")
    with conceptguard.attach(pipe, {"guards": [{"method": "spm", "artifact": str(path)}]}) as guard:
        theirs = generate(pipe, "a beer")
        assert max(guard.receipt.acts[0].gates) == 1
        bare = generate(pipe, "a red apple")
    assert torch.equal(bare, generate(pipe, "a red apple"))
    assert (ours - theirs).abs().max() > 0  # at gate 1 the unconditional row is changed as well
    assert not torch.equal(theirs, generate(pipe, "a beer"))


def test_official_mode_squares_the_gate(pipe: Any, made: Artifact) -> None:
    """At a fixed gate of one half, the authors' arithmetic is worth a quarter."""
    bare = generate(pipe, "a beer", guidance_scale=0)

    def effect(**options: Any) -> torch.Tensor:
        policy = {"guards": [{"method": "spm", "artifact": str(made.folder), **options}]}
        with conceptguard.attach(pipe, policy):
            return generate(pipe, "a beer", guidance_scale=0)

    official = effect(gate=0.5, compat="official")
    torch.testing.assert_close(official, effect(gate=0.25), atol=1e-5, rtol=1e-5)
    assert (official - effect(gate=0.5)).abs().max() > 10 * (official - effect(gate=0.25)).abs().max()
    assert not torch.equal(official, bare)


def test_transfer_to_a_finetuned_sibling(pipe: Any, made: Artifact) -> None:
    """Same architecture, other weights: the membrane loads and moves the sibling as it moves its base."""
    sibling = copy.deepcopy(pipe)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in sibling.unet.parameters():
            p.add_(torch.randn(p.shape, generator=random) * p.std(correction=0) * 0.02)
    policy = {"guards": [{"method": "spm", "artifact": str(made.folder), "strength": 20.0}]}

    def effect(of: Any) -> torch.Tensor:
        bare = generate(of, "a beer")
        with conceptguard.attach(of, policy):
            return generate(of, "a beer") - bare

    own, moved = effect(pipe), effect(sibling)
    assert own.abs().max() > 0
    assert torch.cosine_similarity(own.flatten(), moved.flatten(), dim=0) > 0.5


def test_another_architecture_is_refused(pipe: Any, made: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "wrong_last.safetensors"
    tensors = {k: torch.cat([t, t], -1) if "attn2_to_k.lora_down" in k else t for k, t in made.tensors().items()}
    save_file(tensors, path, metadata=made.metadata())
    with pytest.raises(BaseMismatch, match="attn2"):
        conceptguard.attach(pipe, {"guards": [{"method": "spm", "artifact": str(path)}]})


@pytest.mark.parametrize(
    ("concept", "options", "says"),
    [
        ({"name": "beer", "prompts": []}, {}, "prompts"),
        ({"name": "beer", "prompts": ["beer " * 80]}, {}, "shorten it"),
        (BEER, {"preserve": ["ginger beer"]}, "preserve 'ginger beer' contains 'beer'"),
        (BEER, {"templates": ["a picture"]}, "no place for the concept"),
        (BEER, {"stps": 3}, "did you mean 'steps'"),
        (BEER, {"lr": -1.0}, "lr"),
        ("!!!", {}, "no usable name"),
    ],
)
def test_bad_input(pipe: Any, tmp_path: Path, concept: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyError, match=says) as raised:
        make(pipe, tmp_path, concept, **options)
    assert "\n" not in str(raised.value)


def test_a_loss_that_is_no_number_stops(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="lower lr"):
        make(pipe, tmp_path, lr=1e30, steps=6)
    assert not list(tmp_path.rglob("artifact.yaml"))


def test_pick_keeps_rows_together(pipe: Any) -> None:
    encoded = host_for(pipe).encode(["a", "two words", "three more words"])
    chosen = pick(encoded, [2, 0])
    assert chosen.ids == [encoded.ids[2], encoded.ids[0]]
    assert torch.equal(chosen.embeds, encoded.embeds[[2, 0]])


def test_trajectories_are_walked_while_training(pipe: Any) -> None:
    """Every state is the last one's DDIM step, each begins with noise, and they begin one after another."""
    denoiser = host_for(pipe).denoiser()
    walks = Walks(denoiser, 3, 7, 2, 4, torch.Generator().manual_seed(0))
    began: list[list[int]] = [[], []]
    before, times, output = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for step in range(7):
        latents, now, prompts = walks.at(step)
        for row in range(2):
            if step and now[row] < times[row]:
                expected = denoiser.ddim_step(output[row], before[row], int(times[row]), int(now[row]))
                torch.testing.assert_close(latents[row], expected)
            else:
                began[row].append(step)
                assert now[row] >= 750 and 0.8 < latents[row].std() < 1.2
        before, times, output = latents, now, torch.randn(latents.shape)
        walks.go_on(step, output)
        assert set(prompts) <= {0, 1, 2}
    assert began == [[0, 4], [0, 2, 6]]


def test_layers_that_read_text_start_along_what_tells_the_concept(pipe: Any) -> None:
    """They answer to the concept's own tokens, and hardly to those of texts to hold; the membrane does nothing yet."""
    settings, random = SPMMakeSettings(templates=["{}"]), torch.Generator().manual_seed(0)
    texts = Texts(host_for(pipe), as_concept(BEER), ["bar mat", "milk"], settings, random)
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    shapes = {name: host_for(pipe).layers().shapes()[name]}
    (down, up, _) = initial(shapes, settings, random, texts.direction())[name]
    (other, _, _) = initial(shapes, settings, random)[name]
    assert not up.any() and float(down.norm()) == pytest.approx(float(other.norm()), rel=0.3)

    def told(down: torch.Tensor) -> float:
        own, held = (float((one.embeds @ down.T).square().mean()) for one in (texts.target, texts.anchors))
        return own / held

    assert told(down) > 3 * told(other)
