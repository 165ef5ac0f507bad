"""The ComfyUI host against a real core, in this process: the same guards, the same numbers, nothing left behind."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from sampling import SHAPE, encode, predict, sample

from conceptguard import attach, plugins
from conceptguard.errors import BaseMismatch, GuardError, Refused, SessionError

SMOKING, APPLE = "a man smoking a cigarette, noto style", "a red apple, noto style"
CIGARETTE = {"method": "spm", "artifact": "emoji-sd/spm/cigarette"}
PISTOL = {"method": "uce", "artifact": "emoji-sd/uce/pistol"}
CONCEPT = {"name": "cigarette", "prompts": ["cigarette", "a man smoking a cigarette"]}
GUARDS = {
    "spm": CIGARETTE,
    "spm official": {**CIGARETTE, "compat": "official"},
    "spm half": {**CIGARETTE, "strength": 0.5},
    "uce": {"method": "uce", "artifact": "emoji-sd/uce/cigarette"},
    "lora": {"method": "lora", "artifact": "emoji-sd/spm/cigarette"},
    "always": {**PISTOL, "gate": "always"},
    "safree": {"method": "safree", "concept": CONCEPT, "positions": "all", "schedule": False},
    "sld": {"method": "sld", "concept": CONCEPT},
    "negative guidance": {"method": "negative_guidance", "concept": CONCEPT},
    "ant": {"method": "ant", "concept": CONCEPT},
    "trce": {"method": "trce", "concept": CONCEPT},
}


def guarded(parts: Any, *guards: dict[str, Any], texts: Any = (SMOKING, APPLE, "", "a pistol"), **policy: Any) -> Any:
    """(MODEL, session) under a policy of these guards, which knows these texts."""
    session = attach((parts.model, parts.clip), {"guards": list(guards), **policy})
    session.host.candidates = lambda: texts
    return session.host.guarded(), session


@pytest.fixture(scope="module")
def conds(bare: Any) -> Any:
    return {text: bare.encode(text) for text in (SMOKING, APPLE, "", "a pistol")}


def test_layers_have_the_names_of_diffusers(parts: Any, pipe: Any) -> None:
    mine, theirs = attach((parts.model, parts.clip), {}), attach(pipe, {})
    assert mine.layers.shapes() == theirs.layers.shapes()
    assert mine.host.fingerprint() == theirs.host.fingerprint()
    theirs.detach()


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What SLD is given, call by call."""
    found: list[Any] = []
    module = sys.modules[plugins.method("sld").__module__]
    own = module.safety_guidance
    monkeypatch.setattr(module, "safety_guidance", lambda *args: found.append(args) or own(*args))
    return found


def amplified(pushes: list[Any], cfg: float) -> Any:
    """What SLD makes of the last bits of two hosts' predictions, number by number; 0 where it did not run.

    Its scale rises from 0 to 1 while prompt and concept come 1 / s_S = 2e-4 apart: in there, in less than one number of
    a hundred, a difference of 1e-7 comes out 5,000 times as large by the paper's formula. Nowhere else is anything
    allowed for, and what goes into the formula is the same ten times as closely as what comes out.
    """
    if not pushes:
        return 0.0
    (prompt, concept, nothing, _, level), theirs = pushes
    assert all((a - b).abs().max() < 1e-5 for a, b in zip((prompt, concept, nothing), theirs))
    apart, other = prompt - concept, theirs[0] - theirs[1]
    steep = torch.minimum(apart.abs(), other.abs()) * level.scale < 1
    assert steep.float().mean() < 0.01
    return steep * cfg * level.scale * (apart - other).abs() * (concept - nothing).abs()


TIMESTEP, CFG = 601, 3.5


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def unguarded(parts: Any, conds: Any, latents: torch.Tensor) -> torch.Tensor:
    """The prediction that every guard's is held against."""
    return predict(parts.model, conds[SMOKING], conds[""], latents, TIMESTEP, CFG)


@pytest.mark.parametrize("name", GUARDS)
def test_the_same_prediction_as_in_diffusers(
    name: str, parts: Any, pipe: Any, conds: Any, latents: Any, unguarded: Any, pushes: list[Any]
) -> None:
    x, timestep, cfg = latents, TIMESTEP, CFG
    model, session = guarded(parts, GUARDS[name])
    mine = predict(model, conds[SMOKING], conds[""], x, timestep, cfg)
    with torch.inference_mode(), attach(pipe, session.policy) as theirs:
        towards, away = pipe.encode_prompt(SMOKING, "cpu", 1, True)
        out = pipe.unet(torch.cat([x, x]), timestep, torch.cat([away, towards])).sample
        receipt = theirs.receipt
    expected = out[:1] + cfg * (out[1:] - out[:1])
    assert (expected - unguarded).abs().max() > 0.05, "this guard did nothing"
    assert ((mine - expected).abs() < 1e-4 + amplified(pushes, cfg)).all()
    opened = [(act.guard, [gate for gate in act.gates if gate]) for act in receipt.opened]
    assert [(a.guard, pytest.approx([g for g in a.gates if g], abs=1e-4)) for a in session.receipt.opened] == opened


def test_no_guard_tax(parts: Any, conds: Any, bare: Any) -> None:
    model, session = guarded(parts, CIGARETTE, PISTOL, GUARDS["sld"], GUARDS["safree"])
    assert torch.equal(sample(model, conds[APPLE], conds[""]), bare.sample(APPLE))
    assert not session.receipt.opened and session.receipt.steps == 3


def test_no_trace(parts: Any, conds: Any, bare: Any) -> None:
    weights = {name: p.clone() for name, p in parts.model.model.named_parameters()}
    before = bare.sample(SMOKING)
    model, session = guarded(parts, CIGARETTE)
    assert not torch.equal(sample(model, conds[SMOKING], conds[""]), before)
    assert torch.equal(sample(parts.model, conds[SMOKING], conds[""]), before)
    assert all(torch.equal(p, weights[name]) for name, p in parts.model.model.named_parameters())
    session.detach()
    with pytest.raises(GuardError, match="detached"):
        sample(model, conds[SMOKING], conds[""])


def test_an_interruption_leaves_nothing(parts: Any, conds: Any, bare: Any) -> None:
    before = bare.sample(SMOKING)
    model, session = guarded(parts, CIGARETTE)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, conds[SMOKING], conds[""], callback=interrupt)
    assert session.receipt.steps == 1
    assert torch.equal(sample(parts.model, conds[SMOKING], conds[""]), before)


def test_rows_are_separate(parts: Any, conds: Any) -> None:
    """Two prompts in one batch: each gets what it would get alone."""
    model, _ = guarded(parts, CIGARETTE)
    both = [[torch.cat([conds[SMOKING][0][0], conds[APPLE][0][0]]), conds[SMOKING][0][1]]]
    together = sample(model, both, conds[""], batch=2)
    alone = torch.zeros_like(together)
    for row, text in enumerate((SMOKING, APPLE)):
        alone[row] = sample(model, conds[text], conds[""], batch=2)[row]
    assert (together - alone).abs().max() < 1e-3
    assert torch.equal(together[1:], sample(parts.model, both, conds[""], batch=2)[1:])


def test_combined_conditionings_have_gates_of_their_own(parts: Any, conds: Any) -> None:
    model, session = guarded(parts, CIGARETTE)
    sample(model, conds[APPLE] + conds[SMOKING], conds[""])
    gates = {row.text: gate for row, gate in zip(session.receipt.rows, session.receipt.acts[0].gates)}
    assert gates == {SMOKING: 1.0, APPLE: 0.0, "": 0.0}


def test_what_is_mixed_is_still_seen(parts: Any, conds: Any) -> None:
    """Concatenated texts are recognised in the whole; averaged embeddings are no text and held to the weakest sight."""
    model, session = guarded(parts, CIGARETTE)
    a, b = conds[APPLE][0], conds[SMOKING][0]
    sample(model, [[torch.cat([a[0], b[0]], 1), a[1]]], conds[""])
    assert session.receipt.rows[-1].text == f"{APPLE} {SMOKING}" and max(session.receipt.acts[0].gates) == 1.0
    sample(model, [[0.2 * a[0] + 0.8 * b[0], a[1]]], conds[""])
    assert session.receipt.rows[-1].text is None and max(session.receipt.acts[0].gates) > 0


def test_areas_and_timestep_ranges(parts: Any, conds: Any) -> None:
    model, session = guarded(parts, CIGARETTE)
    half = [[conds[SMOKING][0][0], {**conds[SMOKING][0][1], "area": (16, 8, 0, 0), "strength": 1.0}]]
    late = [[conds[SMOKING][0][0], {**conds[SMOKING][0][1], "start_percent": 0.6, "end_percent": 1.0}]]
    bare = sample(parts.model, conds[APPLE] + half, conds[""])
    assert not torch.equal(sample(model, conds[APPLE] + half, conds[""]), bare)
    assert session.receipt.acts[0].steps
    early = [[conds[APPLE][0][0], {**conds[APPLE][0][1], "start_percent": 0.0, "end_percent": 0.6}]]
    sample(model, early + late, conds[""], steps=6)
    acted = session.receipt.acts[0].steps
    assert acted and min(acted) > 0 and max(acted) == session.receipt.steps - 1


def test_without_guidance(parts: Any, conds: Any) -> None:
    model, session = guarded(parts, CIGARETTE)
    out = sample(model, conds[SMOKING], conds[""], cfg=1.0)
    assert [row.branch for row in session.receipt.rows] == ["conditional"]
    assert not torch.equal(out, sample(parts.model, conds[SMOKING], conds[""], cfg=1.0))
    model, _ = guarded(parts, GUARDS["negative guidance"])
    with pytest.raises(GuardError, match="guidance"):
        sample(model, conds[SMOKING], conds[""], cfg=1.0)


def test_image_to_image_and_inpainting(parts: Any, conds: Any) -> None:
    start = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    for options in ({"denoise": 0.6}, {"denoise": 0.8, "noise_mask": mask}):
        model, session = guarded(parts, CIGARETTE)
        out = sample(model, conds[SMOKING], conds[""], latent=start, steps=4, **options)
        bare = sample(parts.model, conds[SMOKING], conds[""], latent=start, steps=4, **options)
        assert session.receipt.opened and not torch.equal(out, bare)
        if "noise_mask" in options:
            assert (out - start)[..., :7].abs().max() < 1e-4
        same = sample(model, conds[APPLE], conds[""], latent=start, steps=4, **options)
        assert torch.equal(same, sample(parts.model, conds[APPLE], conds[""], latent=start, steps=4, **options))


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "uni_pc", "ddim", "dpmpp_sde"])
def test_samplers(sampler: str, parts: Any, conds: Any) -> None:
    model, session = guarded(parts, CIGARETTE)
    out = sample(model, conds[SMOKING], conds[""], sampler=sampler)
    assert session.receipt.acts[0].steps == list(range(session.receipt.steps))
    assert torch.equal(out, sample(model, conds[SMOKING], conds[""], sampler=sampler))


def test_a_user_s_lora_before_or_after(parts: Any, conds: Any) -> None:
    def with_lora(model: Any) -> Any:
        clone = model.clone()
        key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"
        weight = dict(parts.model.model.named_parameters())[key]
        random = torch.Generator().manual_seed(2)
        clone.add_patches({key: (0.3 * torch.randn(weight.shape, generator=random),)}, 1.0)
        return clone

    plain = sample(with_lora(parts.model), conds[APPLE], conds[""])
    before, _ = guarded(parts._replace(model=with_lora(parts.model)), CIGARETTE)
    after = with_lora(guarded(parts, CIGARETTE)[0])
    results = [sample(model, conds[SMOKING], conds[""]) for model in (before, after)]
    assert torch.equal(*results)
    assert not torch.equal(results[0], sample(with_lora(parts.model), conds[SMOKING], conds[""]))
    assert torch.equal(sample(after, conds[APPLE], conds[""]), plain)


def test_attention_patches_beside_a_guard(parts: Any, conds: Any, bare: Any) -> None:
    """As image-prompt adapters set them: keys and values of every cross-attention changed, row by row."""

    def with_patch(model: Any) -> Any:
        clone = model.clone()

        def patch(q: Any, k: Any, v: Any, options: Any) -> Any:
            rows = torch.tensor(options["cond_or_uncond"]).repeat_interleave(len(v) // len(options["cond_or_uncond"]))
            return q, k, v * (1 + 0.5 * (rows == 0)).view(-1, 1, 1)

        clone.set_model_attn2_patch(patch)
        return clone

    model, session = guarded(parts, CIGARETTE, GUARDS["negative guidance"])
    patched = sample(with_patch(parts.model), conds[APPLE], conds[""])
    assert torch.equal(sample(with_patch(model), conds[APPLE], conds[""]), patched)
    assert not torch.equal(patched, bare.sample(APPLE))
    sample(with_patch(model), conds[SMOKING], conds[""])
    assert len(session.receipt.opened) == 2


def test_a_controlnet_beside_a_guard(parts: Any, conds: Any, bare: Any) -> None:
    """A ControlNet of random weights on the prompt: ComfyUI then draws each branch in a call of its own."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    shape = {k: v for k, v in parts.model.model.model_config.unet_config.items() if k != "out_channels"}
    shape.pop("transformer_depth_output")
    net = comfy.cldm.cldm.ControlNet(**shape, hint_channels=3, operations=comfy.ops.disable_weight_init, device="cpu")
    random = torch.Generator().manual_seed(3)
    for p in net.parameters():
        p.data = 0.03 * torch.randn(p.shape, generator=random)
    control = comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"))
    hint = torch.rand(1, 3, 128, 128, generator=random)

    def controlled(cond: Any) -> Any:
        return [[c, {**d, "control": control.copy().set_cond_hint(hint, 1.0), "control_apply_to_uncond": False}]
                for c, d in cond]  # fmt: skip

    alone = {text: sample(parts.model, controlled(conds[text]), conds[""]) for text in (SMOKING, APPLE)}
    assert not torch.equal(alone[APPLE], bare.sample(APPLE))
    for guard in (CIGARETTE, GUARDS["negative guidance"], GUARDS["safree"]):
        model, session = guarded(parts, guard)
        assert torch.equal(sample(model, controlled(conds[APPLE]), conds[""]), alone[APPLE])
        assert not torch.equal(sample(model, controlled(conds[SMOKING]), conds[""]), alone[SMOKING])
        assert session.receipt.opened and {row.text for row in session.receipt.rows} == {SMOKING, ""}


def test_a_lora_of_the_text_encoder(parts: Any, pipe: Any, tmp_path: Any) -> None:
    """Guard Encoder opens it where the prompt is encoded, as far as the prompt is about the concept."""
    from random_artifacts import random_terms, write_terms

    from conceptguard.hosts.comfyui.clip import GuardedCLIP

    terms = random_terms(pipe, names=("q_proj", "v_proj", "fc1"), component="text_encoder", rank=2)
    guard = {"method": "lora", "artifact": str(write_terms(tmp_path / "lora", pipe, terms, method="lora"))}
    session = attach((parts.model, parts.clip), {"guards": [guard]})
    clip = GuardedCLIP(parts.clip, session)
    with torch.inference_mode():
        for text in (APPLE, "a (red:1.3) apple"):
            assert torch.equal(encode(clip, text)[0][0], encode(parts.clip, text)[0][0])
        for text in (SMOKING, "a man (smoking:1.3) a cigarette", f"{APPLE} " * 20 + SMOKING):
            mine, plain = encode(clip, text)[0][0], encode(parts.clip, text)[0][0]
            assert mine.shape == plain.shape and (mine - plain).abs().max() > 0.01
            assert "open 1.00 in text_encoder" in str(session.receipt)
        always = attach((parts.model, parts.clip), {"guards": [{**guard, "gate": "always"}]})
        mine = encode(GuardedCLIP(parts.clip, always), SMOKING)[0][0]
        with attach(pipe, always.policy):
            theirs = pipe.encode_prompt(SMOKING, "cpu", 1, False)[0]
    assert (mine - theirs).abs().max() < 1e-4


def test_a_guard_that_acts_in_the_text_encoder_alone(parts: Any, conds: Any, pipe: Any, tmp_path: Any) -> None:
    """Where the prompt was encoded past it, its gate is open and it did nothing: no picture, and what to wire."""
    from random_artifacts import random_terms, write_terms

    from conceptguard.hosts.comfyui.clip import GuardedCLIP

    terms = random_terms(pipe, names=("fc1", "fc2"), component="text_encoder", rank=2)
    guard = {"method": "few_shot", "artifact": str(write_terms(tmp_path, pipe, terms, method="few_shot"))}
    model, _ = guarded(parts, guard)
    encoder = attach((parts.model, parts.clip), {"guards": [guard]})  # a session of its own, as the node has
    with torch.inference_mode():
        mine = encode(GuardedCLIP(parts.clip, encoder), SMOKING)
    assert not torch.equal(sample(model, mine, conds[""], steps=1), sample(model, conds[APPLE], conds[""], steps=1))
    with pytest.raises(
        GuardError, match=r"'a man smoking .* was not encoded under it: encode it through Guard Encoder"
    ):
        sample(model, conds[SMOKING], conds[""], steps=1)
    other, _ = guarded(parts, {**guard, "strength": 0.5})
    with pytest.raises(GuardError, match="with the same policy"):
        sample(other, mine, conds[""], steps=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, comfy: None) -> None:
    """Texts are recognised by embeddings that were cast on their way."""
    from conceptguard.hosts.comfyui.load import load_parts

    own = load_parts("emoji-sd")
    own.model.model.diffusion_model.to(dtype).dtype = dtype
    with torch.inference_mode():
        c = {text: encode(own.clip, text) for text in (SMOKING, APPLE, "")}
    model, session = guarded(own, CIGARETTE, GUARDS["sld"])
    assert torch.equal(sample(model, c[APPLE], c[""]), sample(own.model, c[APPLE], c[""]))
    assert not torch.equal(sample(model, c[SMOKING], c[""]), sample(own.model, c[SMOKING], c[""]))
    assert len(session.receipt.opened) == 2 and session.receipt.dtype == str(dtype).removeprefix("torch.")
    assert {row.text for row in session.receipt.rows} == {SMOKING, ""}


def test_a_guard_that_raises(parts: Any, conds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from conceptguard_plugins.diffusion.sld import SLD

    def broken(*_: Any) -> None:
        raise RuntimeError("broken on purpose")

    model, _ = guarded(parts, GUARDS["sld"])
    monkeypatch.setattr(SLD, "push", broken)
    with pytest.raises(GuardError, match=r"sld cigarette.*broken on purpose"):
        sample(model, conds[SMOKING], conds[""])


def test_another_architecture(parts: Any, pipe: Any, tmp_path: Any, tiny: Any) -> None:
    from random_artifacts import membrane

    with pytest.raises(BaseMismatch, match="MODEL"):
        guarded(parts, membrane(tmp_path, tiny))


def test_official_membranes_and_a_long_prompt(parts: Any) -> None:
    """Their metric compares whole encodings, of one window each."""
    long = f"{APPLE}, " * 12 + SMOKING
    with torch.inference_mode():
        c = {text: encode(parts.clip, text) for text in (long, "")}
    model, session = guarded(parts, GUARDS["spm official"], texts=(long, ""))
    sample(model, c[long], c[""])
    assert session.receipt.opened


def test_an_unknown_kind_of_model(parts: Any) -> None:
    class Cascade:
        model_config = parts.model.model.model_config

    class Patcher:
        model = Cascade()

    with pytest.raises(SessionError, match=r"'Cascade'.*SDXL"):
        attach((Patcher(), parts.clip), {})


def test_policy_that_refuses_what_it_cannot_read(parts: Any, conds: Any) -> None:
    model, _ = guarded(parts, CIGARETTE, unread="refuse")
    sample(model, conds[SMOKING], conds[""])
    mixed = [[(conds[SMOKING][0][0] + conds[APPLE][0][0]) / 2, conds[APPLE][0][1]]]
    with pytest.raises(Refused, match="text"):
        sample(model, mixed, conds[""])


def test_a_batch_that_somebody_split(parts: Any, conds: Any) -> None:
    """Halves of a batch under the notes of the whole: each row's embedding still says what it is."""

    def split(apply: Any, call: Any) -> Any:
        halves = []
        for part in (slice(0, 1), slice(1, None)):
            c = {k: v[part] if isinstance(v, torch.Tensor) else v for k, v in call["c"].items()}
            halves.append(apply(call["input"][part], call["timestep"][part], **c))
        return torch.cat(halves)

    model, session = guarded(parts, CIGARETTE)
    out = sample(model, conds[SMOKING], conds[""])
    model.set_model_unet_function_wrapper(split)
    assert (sample(model, conds[SMOKING], conds[""]) - out).abs().max() < 1e-3
    assert {row.text: row.branch for row in session.receipt.rows} == {SMOKING: "conditional", "": "unconditional"}
    model, _ = guarded(parts, GUARDS["negative guidance"])
    model.set_model_unet_function_wrapper(split)
    with pytest.raises(GuardError, match="split"):
        sample(model, conds[SMOKING], conds[""])


def test_composing_guiders(parts: Any, conds: Any) -> None:
    """A guider with three conditions names each; none is mistaken for another."""
    import comfy.sample
    import comfy.samplers

    class Dual(comfy.samplers.CFGGuider):  # as DualCFGGuider is
        def predict_noise(self, x: Any, timestep: Any, model_options: Any = {}, seed: Any = None) -> Any:  # noqa: B006
            three = [self.conds[name] for name in ("negative", "middle", "positive")]
            away, middle, towards = comfy.samplers.calc_cond_batch(self.inner_model, three, x, timestep, model_options)
            return away + 3 * (towards - middle) + 1.5 * (middle - away)

    model, session = guarded(parts, CIGARETTE, GUARDS["negative guidance"])
    guider = Dual(model)
    guider.inner_set_conds({"positive": conds[SMOKING], "middle": conds[APPLE], "negative": conds[""]})
    sampler = comfy.samplers.sampler_object("euler")
    latent = torch.zeros(1, *SHAPE)
    with torch.inference_mode():
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 3)
        guider.sample(comfy.sample.prepare_noise(latent, 1), latent, sampler, sigmas, disable_pbar=True)
    assert {row.text: row.branch for row in session.receipt.rows} == {
        SMOKING: "conditional", APPLE: "conditional", "": "unconditional",
    }  # fmt: skip
    assert len(session.receipt.opened) == 2


def test_receipts_are_true(parts: Any, conds: Any) -> None:
    told: list[tuple[int, bool]] = []
    model, session = guarded(parts, CIGARETTE, PISTOL)
    session.host.on_step = lambda receipt, done: told.append((receipt.steps, done))
    sample(model, conds[SMOKING], conds[""])
    (act,) = session.receipt.opened
    assert (act.guard, act.steps, act.layers) == ("spm emoji-sd/spm/cigarette", [0, 1, 2], 84)
    assert told == [(1, False), (2, False), (3, False), (3, True)]
