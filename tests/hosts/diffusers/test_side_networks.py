"""Networks beside a denoiser: what they read of a guarded prompt is guarded, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoPipelineForText2Image,
    ControlNetModel,
    FluxControlNetModel,
    FluxControlNetPipeline,
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from random_artifacts import RandomTerms, membrane
from tiny import clip_tokenizer, tiny_sd, tiny_sdxl
from tiny_transformers import tiny_flux

import conceptguard
from conceptguard.errors import GuardError, Refused
from conceptguard.testing.kit_guards import offered

OPENS, UNRELATED = "a cigarette", "a red apple"
CONCEPT = {"name": "cigarette", "prompts": ["cigarette"]}
EVERYWHERE = {"method": "safree", "concept": CONCEPT, "alpha": 0.0, "schedule": False, "positions": "all"}


def controlnet(pipe: Any, seed: int = 1) -> ControlNetModel:
    """A small one that has a say: what it adds starts at zero otherwise."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 8, 8, 8)).eval()
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.2)
    return net


def beside(kind: str = "sd", nets: int = 1) -> Any:
    pipe = tiny_sd(clip_tokenizer()) if kind == "sd" else tiny_sdxl(clip_tokenizer())
    net = controlnet(pipe) if nets == 1 else MultiControlNetModel([controlnet(pipe, i) for i in range(nets)])
    cls: Any = StableDiffusionControlNetPipeline if kind == "sd" else StableDiffusionXLControlNetPipeline
    options = {"requires_safety_checker": False} if kind == "sd" else {"add_watermarker": False}
    made = cls(**pipe.components, controlnet=net, **options)
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipe: Any, prompts: list[str], **options: Any) -> torch.Tensor:
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    several = isinstance(pipe.controlnet, MultiControlNetModel)
    seeds = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    options = {"num_inference_steps": 2, "output_type": "latent", **options}
    return pipe(prompts, image=[picture] * 2 if several else picture, generator=seeds, **options).images


class Watched:
    """What the network adds in the denoiser's calls, and what it would add for a prompt."""

    def __init__(self, pipe: Any):
        self.pipe, self.given, self.calls = pipe, [], []
        hooks = {"with_kwargs": True}
        self.handles = [
            pipe.unet.register_forward_pre_hook(lambda m, a, k: self.given.append((a, k)), **hooks),
            pipe.controlnet.register_forward_pre_hook(lambda m, a, k: self.calls.append((a, k)), **hooks),
        ]

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def says(self, embeds: torch.Tensor, pooled: torch.Tensor | None) -> torch.Tensor:
        """In the last step, in its middle block, with these conditions."""
        args, kwargs = next(
            call for call in reversed(self.calls) if len(call[1]["encoder_hidden_states"]) == len(embeds)
        )
        kwargs = {**kwargs, "encoder_hidden_states": embeds}
        if pooled is not None:
            kwargs["added_cond_kwargs"] = {**kwargs["added_cond_kwargs"], "text_embeds": pooled}
        with torch.no_grad():
            return self.pipe.controlnet(*args, **kwargs)[1]


GUARDS = {
    "terms": lambda folder, pipe: membrane(folder, pipe),
    "prediction": lambda folder, pipe: {"method": "negative_guidance", "concept": CONCEPT},
    "condition": lambda folder, pipe: EVERYWHERE,
}


@pytest.mark.parametrize(("kind", "nets"), [("sd", 1), ("sd", 2), ("xl", 1)])
@pytest.mark.parametrize("guard", GUARDS)
def test_a_controlnet_reads_what_is_guarded(guard: str, kind: str, nets: int, tmp_path: Path) -> None:
    """The guarded row's embedding, or none where the guard acts in the UNet; the other rows' own."""
    pipe = beside(kind, nets)
    bare, alone = draw(pipe, [UNRELATED, OPENS]), draw(pipe, [UNRELATED])
    with conceptguard.attach(pipe, {"guards": [GUARDS[guard](tmp_path, pipe)]}) as session, Watched(pipe) as watched:
        got = draw(pipe, [UNRELATED, OPENS])
        given = [kwargs for _, kwargs in watched.given if len(kwargs["encoder_hidden_states"]) == 4][-1]
        embeds, added = given["encoder_hidden_states"].clone(), given.get("added_cond_kwargs") or {}
        pooled = added.get("text_embeds")
        if guard != "condition":
            nothing = session.host.encode([""])
            embeds[3] = nothing.embeds[0]
            if pooled is not None:
                pooled = pooled.clone()
                pooled[3] = nothing.pooled[0]
        want = watched.says(embeds, pooled)
        torch.testing.assert_close(given["mid_block_additional_residual"], want, rtol=1e-4, atol=1e-5)
        how = "the guarded prompt" if guard == "condition" else "no prompt"
        assert f"controlnet read {how} in place of 'a cigarette'" in session.receipt.acts[0].notes
        assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-3)
        assert torch.equal(draw(pipe, [UNRELATED]), alone)
        assert not any("controlnet" in note for act in session.receipt.acts for note in act.notes)
    assert torch.equal(draw(pipe, [UNRELATED, OPENS]), bare)


def test_flux(tmp_path: Path) -> None:
    """Where branches come one by one, and pooled embeddings beside: the prompt's call has the guarded one."""
    flux: Any = tiny_flux(clip_tokenizer())
    torch.manual_seed(0)
    net = FluxControlNetModel.from_transformer(
        flux.transformer, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2
    ).eval()
    for parameter in net.controlnet_blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    parts = {name: part for name, part in flux.components.items() if name not in ("image_encoder", "feature_extractor")}
    pipe = FluxControlNetPipeline(**parts, controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    options = {"negative_prompt": "blurry", "true_cfg_scale": 3.0, "num_inference_steps": 2, "output_type": "latent",
               "height": 32, "width": 32, "max_sequence_length": 64}  # fmt: skip
    asked, given = [], []
    net.register_forward_pre_hook(lambda m, a, k: asked.append(k), with_kwargs=True)

    def draw(prompt: str) -> torch.Tensor:
        seed = torch.Generator().manual_seed(0)
        return pipe(prompt, control_image=torch.ones(1, 3, 32, 32), generator=seed, **options).images

    bare = draw(UNRELATED)
    policy = {"guards": [{"method": "random-terms", "concept": CONCEPT}]}
    with offered(RandomTerms), conceptguard.attach(pipe, policy) as guard:
        assert torch.equal(draw(UNRELATED), bare)
        flux.transformer.register_forward_pre_hook(lambda m, a, k: given.append(k), with_kwargs=True)
        draw(OPENS)
        nothing = guard.host.encode([""], length=64)
        assert torch.equal(asked[-1]["encoder_hidden_states"], nothing.embeds)
        assert torch.equal(asked[-1]["pooled_projections"], nothing.pooled)
        assert not torch.equal(given[-2]["controlnet_block_samples"][0], given[-1]["controlnet_block_samples"][0])
        assert guard.receipt.steps == 4
        assert guard.receipt.acts[0].notes == ["controlnet read no prompt in place of 'a cigarette'"]


def test_guess_mode(tmp_path: Path) -> None:
    """The network is given the rows alone that are drawn towards, and adds nothing to the others."""
    pipe = beside()
    with conceptguard.attach(pipe, {"guards": [membrane(tmp_path, pipe)]}) as session, Watched(pipe) as watched:
        draw(pipe, [UNRELATED, OPENS], guess_mode=True)
        residual = watched.given[-1][1]["mid_block_additional_residual"]
        nothing = session.host.encode([UNRELATED, ""])
        assert not residual[:2].any()
        torch.testing.assert_close(residual[2:], watched.says(nothing.embeds, None), rtol=1e-4, atol=1e-5)


def test_a_network_that_is_none_of_the_pipelines(tmp_path: Path) -> None:
    """Nobody can ask it again: what it adds to a guarded prompt is refused, and unrelated ones go on."""
    pipe = beside()
    plain = AutoPipelineForText2Image.from_pipe(pipe, controlnet=None)
    plain.set_progress_bar_config(disable=True)
    bare = draw(pipe, [UNRELATED])
    with conceptguard.attach(plain, {"guards": [membrane(tmp_path, plain)]}):
        assert torch.equal(draw(pipe, [UNRELATED]), bare)
        with pytest.raises(GuardError, match="a network beside it made of the prompt, and that is none"):
            draw(pipe, [OPENS])
    with conceptguard.attach(pipe, {"guards": [membrane(tmp_path, pipe)]}):
        pipe.controlnet = controlnet(pipe, 7)
        with pytest.raises(GuardError, match=r"pipe\.controlnet was replaced after attaching"):
            draw(pipe, [OPENS])


def test_what_is_asked_by_pictures_is_said_or_refused(tmp_path: Path, tiny: Any) -> None:
    tiny.unet.config.encoder_hid_dim_type = None
    added = {"image_embeds": torch.zeros(1, 1, 4)}
    guard, embeds = membrane(tmp_path, tiny), None
    for unread in ("compare", "refuse"):
        with conceptguard.attach(tiny, {"unread": unread, "guards": [guard]}) as session, torch.no_grad():
            embeds = tiny.encode_prompt(UNRELATED, "cpu", 1, False)[0]
            call = {"encoder_hidden_states": embeds, "added_cond_kwargs": added}
            if unread == "refuse":
                with pytest.raises(Refused, match=r"asks by more than its prompt \(IP-Adapter\)"):
                    tiny.unet(torch.zeros(1, 4, 8, 8), 500, **call)
            else:
                tiny.unet(torch.zeros(1, 4, 8, 8), 500, **call)
                assert "(IP-Adapter), which no guard has read" in session.receipt.acts[0].notes[0]
