"""ItD: what the autoencoder finds, what turning it off does to pictures, and what it leaves to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.itd.concept import RATIO, TOP, Own, features_of, threshold_of
from conceptguard_plugins.diffusion.itd.files import load
from conceptguard_plugins.diffusion.itd.sae import SAE, Codes
from conceptguard_plugins.diffusion.itd.train import ItDMakeSettings, Training
from paths import DATA
from safetensors.torch import load_file
from torch import Tensor

import conceptguard
from conceptguard.errors import ArtifactError, GuardError, PolicyError, Refused
from conceptguard.making.snapshot import Snapshot
from conceptguard.measuring.judges import load_judge, recognised
from conceptguard.measuring.samples import Recipe, make, make_groups_once, make_once
from conceptguard.measuring.suite import Sample, erased, load_suite, neighbours
from conceptguard.plugins import host_for, method
from conceptguard.registry import default_registry

SHIPPED = "emoji-sd/itd/ten-objects"
TEN = ["cigarette", "pistol", "bomb", "beer", "wine", "skull", "knife", "syringe", "pill", "dagger"]


def guard(**settings: Any) -> dict[str, Any]:
    return {"guards": [{"method": "itd", "artifact": SHIPPED, **settings}]}


def latents(pipe: Any, prompts: list[str], **options: Any) -> Tensor:
    generators = [torch.Generator().manual_seed(s) for s in range(len(prompts))]
    options = {"num_inference_steps": 2, "output_type": "latent", **options}
    given = None if prompts[0] is None else prompts
    return pipe(given, generator=generators, **options).images  # type: ignore[no-any-return]


def own_of(pipe: Any, *phrases: str) -> Own:
    dictionary, settings, _ = load(default_registry().load(SHIPPED), host_for(pipe).encoders()[0])
    features = features_of(dictionary, phrases, settings.templates, 16, 1.25, "test")
    threshold = threshold_of(dictionary, phrases, settings.calibration, features).value
    return Own(dictionary, features, threshold, dict(zip(phrases, dictionary.encoder.ids(phrases))))


# The arithmetic.


def test_the_authors_numbers() -> None:
    """Top-k codes, reconstruction and deactivation by the authors' own code, on the same tensors."""
    numbers = load_file(DATA / "parity_itd.safetensors")
    sae, x = SAE.of(numbers, 6), numbers["x"]
    codes = sae.encode(x)
    dense = torch.zeros_like(numbers["latents"]).scatter_(-1, codes.index, codes.value)
    torch.testing.assert_close(dense, numbers["latents"], atol=1e-5, rtol=0)
    torch.testing.assert_close(sae.decode(codes), numbers["rebuilt"], atol=1e-5, rtol=0)
    mine = torch.zeros(len(sae), dtype=torch.bool)
    mine[numbers["features"]] = True
    off = sae.decode(codes) + sae.shift(codes, mine, -8.0)
    torch.testing.assert_close(off[:, 1:], numbers["deactivated"][:, 1:], atol=1e-5, rtol=0)
    assert (sae.shift(codes, mine, -8.0)[:, 1:].abs().amax(-1) > 0).any()
    # Their hook leaves the begin token's features alone, too, and compares a whole prompt's mean square.
    off[:, 0] = sae.decode(codes)[:, 0]
    torch.testing.assert_close((off - x).pow(2).mean((1, 2)), numbers["mse_mean"], atol=1e-5, rtol=0)


def test_peaks_are_those_of_dense_codes() -> None:
    random = torch.Generator().manual_seed(0)
    index = torch.stack([torch.randperm(9, generator=random)[:3] for _ in range(10)]).view(2, 5, 3)
    value = torch.rand(2, 5, 3, generator=random)
    dense = torch.zeros(2, 5, 9).scatter_(-1, index, value)
    assert torch.equal(Codes(index, value).peaks(9), dense.amax(1))


def planted(count: int = 3000) -> tuple[Tensor, Tensor]:
    """States that are sums of two of twelve directions: (states, directions)."""
    random = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(12, 24, generator=random), dim=1)
    which = torch.stack([torch.randperm(12, generator=random)[:2] for _ in range(count)])
    size = 1 + torch.rand(count, 2, 1, generator=random)
    return (directions[which] * size).sum(1) * 7 + 30, directions


def test_training_finds_planted_directions_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    states, directions = planted()
    settings = ItDMakeSettings(features=32, k=2, aux_k=2, steps=600, batch=256, lr=1e-2)

    def training(name: str) -> Training:
        return Training(states, settings, 5, Snapshot(tmp_path / name, {"any": 1}))

    whole = training("a").run(lambda step, loss: None)
    rebuilt = whole.decode(whole.encode(states))
    assert float((rebuilt - states).pow(2).sum() / (states - states.mean(0)).pow(2).sum()) < 0.1
    found = torch.nn.functional.normalize(whole.decoder, dim=1) @ directions.T
    assert int((found.amax(0) > 0.9).sum()) >= 9

    def stop(step: int, loss: float) -> None:
        if step == 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training("b").run(stop)
    again = training("b")
    resumed = again.run(lambda step, loss: None)
    assert again.first == 250
    assert all(torch.equal(getattr(resumed, n), getattr(whole, n)) for n in ("encoder", "decoder", "bias", "centre"))


# The encoder.


def test_a_change_of_nothing_is_what_the_pipeline_encodes(pipe: Any, tiny_xl: Any) -> None:
    """Prompts of any length are padded as the pipeline pads them, and both of SDXL's encoders and pooled are right."""
    texts = ["a red apple", "", "word " * 200]
    for target, count in ((pipe, 1), (tiny_xl, 2)):
        host = host_for(target)
        encoded, encoders = host.encode(texts), host.encoders()
        assert len(encoders) == count
        for encoder in encoders:
            states, pooled = encoder.through(encoder.ids(texts), 0, lambda states: states)
            assert torch.equal(states, encoded.embeds[..., encoder.width])
            if encoder.pooled is not None:
                assert torch.equal(pooled, encoded.pooled[:, encoder.pooled])


def test_a_change_behind_the_last_layer_that_counts_is_heard(tiny_xl: Any) -> None:
    for encoder in host_for(tiny_xl).encoders():
        ids = encoder.ids(["a red apple"])
        before, _ = encoder.through(ids, encoder.depth - 1, lambda states: states)
        after, _ = encoder.through(ids, encoder.depth - 1, lambda states: states + 1)
        assert float((after - before).abs().max()) > 0.1
        assert not any(layer._forward_hooks for n, layer in encoder.module.named_modules() if n.endswith("mlp"))


# The classifier.


def test_the_score_is_of_the_text_alone(pipe: Any) -> None:
    """Not of the batch it comes in, nor of what the window cuts off."""
    own = own_of(pipe, *load_suite("emoji-sd").words("pistol"))
    texts = ["a pistol", "a picture of a handgun", "a gun in a garden", "a red apple, noto style"]
    together = own.dictionary.scores_of([*texts, "a dog " * 70], own.features)[:-1]
    assert [bool(x >= own.threshold) for x in together] == [True, True, True, False]
    alone = torch.cat([own.dictionary.scores_of([text], own.features) for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-3)


def test_kept_apart_wordings_are_told_apart(pipe: Any) -> None:
    """In the judge's wordings, which neither training nor calibration has seen: every word of ten concepts, and all
    that the model can draw besides."""
    suite = load_suite("emoji-sd")
    dictionary, _, (features, threshold) = load(default_registry().load(SHIPPED), host_for(pipe).encoders()[0])
    texts = [
        t.format(thing=it.thing, noun=it.name, style="noto") for it in suite.objects for t in suite.judge_templates
    ]
    named = [it.name in TEN for it in suite.objects for _ in suite.judge_templates]
    found = (dictionary.scores_of(texts, features) >= threshold).tolist()
    wrong = [text for text, has, ought in zip(texts, found, named) if has != ought]
    assert len(wrong) <= 0.01 * len(texts), wrong


def test_what_is_named_is_found_in_a_crowded_prompt(pipe: Any) -> None:
    """The classifier misses these, the model draws them: they are named word for word. A word that only begins like a
    concept's is not it."""
    prompts = ["a cat, a dog, a tree and a wine", "cigarette and a cat", "knife and a cat"]
    dictionary, _, (features, threshold) = load(default_registry().load(SHIPPED), host_for(pipe).encoders()[0])
    assert (dictionary.scores_of(prompts, features) < threshold).all()
    innocent = ["a bomber jacket", "pistachio ice", "a wineless evening"]
    bare = latents(pipe, prompts + innocent)
    with conceptguard.attach(pipe, guard()) as session:
        changed = latents(pipe, prompts + innocent)
        assert "named word for word" in session.receipt.acts[0].notes[0]
    assert all(float((a - b).abs().max()) > 1e-2 for a, b in zip(bare[:3], changed[:3]))
    assert torch.equal(bare[3:], changed[3:])


def test_report_only(pipe: Any) -> None:
    """The classifier by itself: pictures as they were, and the receipt says where the concept is."""
    prompts = ["a photo of a pistol", "a red apple"]
    bare = latents(pipe, prompts)
    with conceptguard.attach(pipe, guard(deactivate=False)) as session:
        assert torch.equal(latents(pipe, prompts), bare)
        (note,) = session.receipt.acts[0].notes
    assert "features (" in note and "in 'a photo of a pistol'" in note and "times the threshold" in note


def test_refuse(pipe: Any) -> None:
    with conceptguard.attach(pipe, guard(deactivate=False, refuse=True)):
        with pytest.raises(Refused, match="ten objects in it"):
            latents(pipe, ["a dog", "someone smoking"])
        assert torch.isfinite(latents(pipe, ["a dog"])).all()


# The off-switch.


def test_ten_concepts_at_once_on_pictures(pipe: Any) -> None:
    """Judged by the classifier that never saw the generator, on its own prompts."""
    suite, judge, recipe = load_suite("emoji-sd"), load_judge("emoji-sd"), Recipe(steps=8)
    mine = [s for i, c in enumerate(TEN) for s in erased(suite, c, 1, 31 + i, start=i)]
    near = [s for i, c in enumerate(TEN[:4]) for s in neighbours(suite, c, 1, 77 + i, without=TEN, start=i)]
    before = make_groups_once(pipe, [mine, near], recipe)
    with conceptguard.attach(pipe, guard()):
        after = [make(pipe, mine, recipe), make(pipe, near, recipe)]
    assert sum(recognised(judge, mine, before[0])) >= 7
    assert sum(recognised(judge, mine, after[0])) <= 1
    assert after[1].identical(before[1]) == 1.0


def test_any_concept_without_training(pipe: Any) -> None:
    """The same autoencoder, a concept that it was made to keep."""
    trumpet = {"name": "trumpet", "prompts": ["trumpet"]}
    prompts = ["a trumpet, noto style", "a guitar, noto style", "a pistol, noto style"]
    judge, recipe = load_judge("emoji-sd"), Recipe(steps=8)
    samples = [Sample(p, 500 + i, "object", p.split()[1].strip(",")) for i, p in enumerate(prompts)]
    before = make_once(pipe, samples, recipe)
    with conceptguard.attach(pipe, guard(concept=trumpet)) as session:
        after = make(pipe, samples, recipe)
        assert session.receipt.acts[0].guard == f"itd {SHIPPED} trumpet"
        assert session.receipt.acts[0].gates.count(1.0) == 1
    assert recognised(judge, samples, before)[0] and not recognised(judge, samples, after)[0]
    assert before.digests[1:] == after.digests[1:]


def test_a_concept_that_would_be_missed_is_refused(pipe: Any) -> None:
    """Its features are those of its synonyms, which are kept."""
    with pytest.raises(PolicyError, match=r"would miss 100%.*synonyms"):
        conceptguard.attach(pipe, guard(concept={"name": "drink", "prompts": ["glass of wine"]}))


def test_two_concepts_of_one_prompt_add_up_in_any_order(pipe: Any) -> None:
    """No guard takes the other one's change back."""
    words = {"pistol": ["pistol", "gun", "handgun"], "key": ["key"]}
    one, two = (
        {"method": "itd", "artifact": SHIPPED, "concept": {"name": n, "prompts": own}} for n, own in words.items()
    )
    prompt = ["a pistol and a key"]
    results = []
    for guards in ([one, two], [two, one], [one], [two]):
        with conceptguard.attach(pipe, {"guards": guards}) as session:
            results.append(latents(pipe, prompt))
            assert all(act.steps == [0, 1] and len(act.notes) == 1 for act in session.receipt.acts)
    # Sums of another order round otherwise, and two steps carry that into latents of some fifty.
    apart = float((results[0] - results[1]).abs().max())
    assert all(float((results[0] - single).abs().max()) > 100 * apart for single in results[2:])


def test_strength_and_reconstruction(pipe: Any) -> None:
    results = []
    for settings in ({}, {"strength": 0.5}, {"reconstruct": True}, {"multiplier": 0.0}, {"classify": False}):
        with conceptguard.attach(pipe, guard(**settings)):
            results.append(latents(pipe, ["a pistol"]))
    full, *others = results
    assert all(float((full - other).abs().max()) > 1e-3 for other in others[:3])
    torch.testing.assert_close(full, others[3])  # the classifier only decides


# What can be wrong.


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"deactivate": False, "classify": False}, "nothing would be guarded"),
        ({"classify": False, "refuse": True}, "refuse needs the classifier"),
        ({"concept": {"name": "x", "prompts": []}}, "needs prompts"),
        ({"multiplier": 2}, "multiplier"),
        ({"multiplyer": 2}, "did you mean 'multiplier'"),
    ],
)
def test_bad_policies(pipe: Any, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(PolicyError, match=why):
        conceptguard.attach(pipe, guard(**settings))


def test_a_phrase_without_a_feature_of_its_own(pipe: Any) -> None:
    """Whatever is active in it is twice as active in something that is kept."""
    dictionary, *_ = load(default_registry().load(SHIPPED), host_for(pipe).encoders()[0])
    like = replace(dictionary, kept=["firearm"], peaks=2 * dictionary.peaks_of(["a gun"]).amax(0, keepdim=True))
    with pytest.raises(PolicyError, match="guard 'x': to this autoencoder 'gun' is like 'firearm', which is kept"):
        features_of(like, ["gun"], ["a {}"], TOP, RATIO, "x")


def test_a_concept_beside_an_artifact_that_has_its_own_is_not_ignored(pipe: Any) -> None:
    both = {"method": "uce", "artifact": "emoji-sd/uce/beer", "concept": {"name": "wine", "prompts": ["wine"]}}
    with pytest.raises(PolicyError, match="an artifact or a concept, not both"):
        conceptguard.attach(pipe, {"guards": [both]})


def test_other_artifacts_and_encoders(pipe: Any, tokenizer: Any) -> None:
    from tiny_transformers import tiny_sd3

    with pytest.raises(ArtifactError, match="no autoencoder for text_encoder"):
        conceptguard.attach(pipe, {"guards": [{"method": "itd", "artifact": "emoji-sd/uce/beer"}]})
    with pytest.raises(PolicyError, match=r"text_encoder_3 .*T5EncoderModel.*works on CLIP"):
        method("itd").make(host_for(tiny_sd3(tokenizer)), "x", Path("nowhere"), progress=False)


def test_embeddings_that_are_not_the_encoders_own_answer(pipe: Any) -> None:
    strange = torch.full((1, 77, 128), 0.5)
    with conceptguard.attach(pipe, guard()):
        with pytest.raises(GuardError, match="reads the words"):
            latents(pipe, [None], prompt_embeds=strange, negative_prompt_embeds=strange)  # type: ignore[list-item]
        embeds, negative = pipe.encode_prompt("a pistol", pipe.device, 1, True)
        bias = pipe.text_encoder.final_layer_norm.bias.data
        bias += 1  # another encoder than the one that encoded them
        try:
            with pytest.raises(GuardError, match="not what text_encoder makes of their prompts"):
                latents(pipe, [None], prompt_embeds=embeds, negative_prompt_embeds=negative)  # type: ignore[list-item]
        finally:
            bias -= 1


def test_odd_prompts(pipe: Any) -> None:
    """Empty, emoji, other scripts, ten thousand characters: as they were; with a pistol among them: changed."""
    odd = ["", "🔫🍺", "手枪和啤酒", "a dog " * 1700, "пистолет", "!!!"]
    bare = latents(pipe, odd)
    with conceptguard.attach(pipe, guard()):
        assert torch.equal(latents(pipe, odd), bare)
    said = ["🔫 pistol 🍺", "a pistol, noto style"]
    bare = latents(pipe, said)
    with conceptguard.attach(pipe, guard()) as session:
        changed = latents(pipe, said)
        assert session.receipt.acts[0].gates[-2:] == [1.0, 1.0]
    assert all(float((a - b).abs().max()) > 1e-2 for a, b in zip(bare, changed))


def test_phrases_longer_than_the_window_are_read_whole(pipe: Any) -> None:
    """The word that matters stands behind the window's end."""
    own = own_of(pipe, "trumpet", "a dog in the park " * 25 + "a trumpet")
    assert float(own.dictionary.scores_of(["a trumpet"], own.features)) >= own.threshold


def test_making_refuses_what_would_fool_it(tiny: Any, tmp_path: Path) -> None:
    make_ = method("itd").make
    for options, why in (
        ({"layer": 2}, "layers 0 to 1"),
        ({"templates": ["{}"], "calibration": ["{}"]}, "among the templates too"),
        ({"calibration": ["nothing"]}, "no place for the concept"),
        ({"preserve": ["a beer mug"]}, "cannot be kept and erased"),
        ({"featuers": 3}, "did you mean 'features'"),
    ):
        with pytest.raises(PolicyError, match=why):
            make_(host_for(tiny), {"name": "beer", "prompts": ["beer"]}, tmp_path, progress=False, **options)
    assert not list(tmp_path.iterdir())
