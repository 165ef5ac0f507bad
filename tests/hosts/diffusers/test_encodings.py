"""Gates and guards read what is encoded: learnt words, prompts of several windows, and calls that encode otherwise."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny import clip_tokenizer, generate, tiny_sdxl
from tiny_transformers import generate as generate_wan
from tiny_transformers import tiny_wan

import conceptguard
from conceptguard.errors import GuardError, Refused
from conceptguard.generation.unlisted import Unlisted

NAMES = ["cigarette", "pistol", "syringe"]
CONCEPT = {"name": "cigarette", "prompts": ["cigarette", "smoking"]}


def spm(*names: str, **more: Any) -> dict[str, Any]:
    return {"guards": [{"method": "spm", "artifact": f"emoji-sd/spm/{name}"} for name in names], **more}


@pytest.fixture(scope="module")
def learnt() -> Any:
    """The embedded model, with learnt words whose vectors are those of guarded concepts: <own-NAME>, and <pair>, which
    has three neutral vectors before the concept's."""
    pipe = conceptguard.load_model("emoji-sd")
    pipe.set_progress_bar_config(disable=True)
    weight = pipe.text_encoder.get_input_embeddings().weight

    def vectors(words: str) -> torch.Tensor:
        return weight[pipe.tokenizer(words, add_special_tokens=False).input_ids].detach().clone()

    words = {f"<own-{name}>": vectors(name) for name in NAMES}
    words["<pair>"] = torch.cat([vectors("yellow flat sign"), vectors("cigarette")])
    words["<dog>"] = vectors("dog")
    for word, own in words.items():
        pipe.load_textual_inversion({word: own if len(own) > 1 else own[0]}, token=word)
    return pipe


def gates(pipe: Any, policy: Any, prompt: Any, **call: Any) -> list[float]:
    """Each guard's gate on the prompt, which is the last row."""
    with conceptguard.attach(pipe, policy) as guard:
        generator = torch.Generator().manual_seed(0)
        pipe(prompt, num_inference_steps=1, output_type="latent", generator=generator, **call)
        return [act.gates[-1] for act in guard.receipt.acts]


@pytest.mark.parametrize("name", NAMES)
def test_a_learnt_word_is_read_by_its_vector(learnt: Any, name: str) -> None:
    """Also amid other words, and where it is several vectors that the pipeline expands."""
    for template in ("a {}, noto style", "noto style, a {}", "mono style: a man with a {}"):
        assert gates(learnt, spm(name), template.format(f"<own-{name}>")) == [1.0], template


def test_several_vectors_are_counted_as_the_pipeline_expands_them(learnt: Any) -> None:
    prompt = "a <pair>, noto style"
    with conceptguard.attach(learnt, spm("cigarette")) as guard:
        (ids,) = guard.host.tokens([prompt])
        (own,) = guard.host.encoders()[0].ids([prompt])
    whole = learnt.tokenizer(learnt.maybe_convert_prompt(prompt, learnt.tokenizer), add_special_tokens=False).input_ids
    assert list(ids) == own == whole and len(ids) == 9 and isinstance(ids, Unlisted)
    assert gates(learnt, spm("cigarette"), prompt) == [1.0]


def test_added_vocabulary_is_unread(learnt: Any) -> None:
    with pytest.raises(Refused, match=r"row 1 has words that were learnt .* leave them out of 'a <dog>, noto style'"):
        gates(learnt, spm("cigarette", unread="refuse"), "a <dog>, noto style")
    assert gates(learnt, spm("cigarette", unread="refuse"), "a dog, noto style") == [0.0]


def test_words_beside_it_are_read_as_before(learnt: Any, emoji: Any) -> None:
    policy = spm(*NAMES)
    for prompt in ("a cigarette, noto style", "a dog, noto style"):
        assert gates(learnt, policy, prompt) == gates(emoji, policy, prompt)


@pytest.fixture(scope="module")
def emoji() -> Any:
    from conceptguard.testing import embedded_model

    return embedded_model()


def test_a_word_that_only_the_second_encoder_learnt_is_unread() -> None:
    pipe = tiny_sdxl(clip_tokenizer())
    pipe.tokenizer_2 = copy.deepcopy(pipe.tokenizer_2)
    own = pipe.text_encoder_2.get_input_embeddings().weight[5].detach().clone()
    pipe.load_textual_inversion({"<two>": own}, token="<two>", tokenizer=pipe.tokenizer_2,
                                text_encoder=pipe.text_encoder_2)  # fmt: skip
    policy = {"guards": [{"method": "sld", "concept": CONCEPT}], "unread": "refuse"}
    with conceptguard.attach(pipe, policy), pytest.raises(Refused, match="words that were learnt"):
        generate(pipe, "a <two>")


# Windows side by side.


def windows(pipe: Any, text: str, count: int = 2) -> torch.Tensor:
    """A text as compel and lpw give it: window after window, [1, 77 * count, width]."""
    tok = pipe.tokenizer
    ids = tok(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    parts = []
    for i in range(count):
        own = ids[i * 75 : (i + 1) * 75]
        row = [tok.bos_token_id, *own, tok.eos_token_id, *[tok.pad_token_id] * (75 - len(own))]
        with torch.no_grad():
            parts.append(pipe.text_encoder(torch.tensor([row]))[0])
    return torch.cat(parts, 1)


FILLER = ", ".join(["red flat simple icon sign"] * 13)  # 77 tokens and more fill the first window


def both(pipe: Any, text: str) -> dict[str, Any]:
    return {"prompt_embeds": windows(pipe, text), "negative_prompt_embeds": windows(pipe, "")}


def test_two_windows_open_what_they_ask_for(emoji: Any) -> None:
    names = ["cigarette", "pistol", "bomb", "skull", "wine"]
    tokens = emoji.tokenizer(FILLER, add_special_tokens=False, truncation=False, verbose=False).input_ids
    filler = emoji.tokenizer.decode(tokens[:75])
    alone = gates(emoji, spm(*names), None, prompt_embeds=windows(emoji, filler, 1))
    for name, place in (("skull", 3), ("cigarette", 0)):
        opened = gates(emoji, spm(*names), None, **both(emoji, f"{filler} a {name}, noto style"))
        one = gates(emoji, spm(*names), None, prompt_embeds=windows(emoji, f"a {name}, noto style", 1))
        assert opened[place] == 1.0
        assert opened == pytest.approx([max(pair) for pair in zip(alone, one)], abs=1e-3), name


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_opens_no_gate_however_it_came(emoji: Any, count: int) -> None:
    names = ["cigarette", "pistol", "bomb", "skull", "wine"]
    nothing = windows(emoji, "", count)
    given = {"prompt_embeds": windows(emoji, "a pistol", count), "negative_prompt_embeds": nothing}
    for policy in (spm(*names), spm(*names, unread="compare")):
        with conceptguard.attach(emoji, policy) as guard:
            emoji(**given, num_inference_steps=1, output_type="latent")
            assert [act.gates[0] for act in guard.receipt.acts] == [0.0] * 5
            assert guard.receipt.acts[1].gates[1] == 1.0
            assert [row.text for row in guard.receipt.rows] == ["", None]


@pytest.mark.parametrize("method", ["sld", "negative_guidance", "ant", "trce", "magicmix"])
def test_guards_own_texts_are_as_long_as_the_call(emoji: Any, method: str) -> None:
    guard = {"method": method, "concept": {**CONCEPT, "replacement": "a banana"}, "gate": "always"}
    given = both(emoji, "a cigarette, noto style")
    call = {"num_inference_steps": 2, "output_type": "latent"}
    bare = emoji(**given, **call, generator=torch.Generator().manual_seed(0)).images
    with conceptguard.attach(emoji, {"guards": [guard]}) as session:
        changed = emoji(**given, **call, generator=torch.Generator().manual_seed(0)).images
        own = session.host.encode(["smoking"]).embeds
        assert torch.equal(session.host.lengthened(own, 154), torch.cat([own, windows(emoji, "", 1)], 1))
    assert not torch.equal(bare, changed)


def test_where_no_window_can_follow_it_is_an_error() -> None:
    policy = {"guards": [{"method": "sld", "concept": CONCEPT}]}
    session = conceptguard.attach(tiny_wan(None), policy)
    with session, pytest.raises(GuardError, match="give a smaller max_sequence_length"):
        session.host.lengthened(torch.zeros(1, 5, 8), 6)


# Calls that encode otherwise.


@pytest.fixture(scope="module")
def sdxl() -> Any:
    return tiny_sdxl(clip_tokenizer())


def seen(pipe: Any, guard: dict[str, Any], **call: Any) -> tuple[list[torch.Tensor], Any]:
    """What the denoiser is given, call by call."""
    found: list[torch.Tensor] = []
    with conceptguard.attach(pipe, {"guards": [guard]}) as session:

        def look(module: Any, args: Any, kwargs: Any) -> None:
            found.append(kwargs["encoder_hidden_states"])

        handle = pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
        generate(pipe, "a cigarette on a table", **call)
        handle.remove()
    return found, session.receipt.acts[0]


def encoded(pipe: Any, text: str, **call: Any) -> torch.Tensor:
    with torch.no_grad():
        return pipe.encode_prompt(
            text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False, **call
        )[0]


@pytest.mark.parametrize("method", ["sld", "negative_guidance"])
def test_the_concept_is_encoded_as_the_call_encodes(sdxl: Any, method: str) -> None:
    for skip in (None, 1, None):
        calls, _ = seen(sdxl, {"method": method, "concept": CONCEPT, "gate": "always"}, clip_skip=skip)
        (own,) = [e for e in calls if len(e) == 1][:1]
        assert torch.allclose(own, encoded(sdxl, "cigarette, smoking", clip_skip=skip), atol=1e-5), skip


def test_safree_reads_the_layer_that_the_call_hears(sdxl: Any) -> None:
    """Its change is the one that it makes of the same model with fewer layers."""
    guard = {"method": "safree", "concept": CONCEPT, "alpha": 0.0, "schedule": False, "gate": "always"}
    calls, _ = seen(sdxl, guard, clip_skip=1)
    shorter = copy.deepcopy(sdxl)
    for encoder in (shorter.text_encoder, shorter.text_encoder_2):
        layers = next(m for n, m in encoder.named_modules() if n.endswith("encoder.layers"))
        del layers[-1]
    expected, _ = seen(shorter, guard)
    assert torch.allclose(calls[0][-1], expected[0][-1], atol=1e-5)
    assert not torch.allclose(calls[0][-1], encoded(sdxl, "a cigarette on a table", clip_skip=1)[0], atol=1e-3)


def test_gates_read_a_prompt_as_they_were_measured(sdxl: Any) -> None:
    guard = {"method": "sld", "concept": CONCEPT}
    for prompt in ("a cigarette on a table", "a dog on a table"):
        found = []
        for skip in (None, 1):
            with conceptguard.attach(sdxl, {"guards": [guard]}) as session:
                generate(sdxl, prompt, clip_skip=skip)
                found.append(session.receipt.acts[0].gates)
        assert found[0] == pytest.approx(found[1], abs=1e-4), prompt


@pytest.mark.parametrize("away", [{}, {"negative": True}])
def test_what_a_guard_puts_in_is_encoded_as_the_call_encodes(sdxl: Any, away: dict[str, Any]) -> None:
    """The content of the prompt as the prompt, what joins the negative prompt as that, which skips no layer."""
    guard = {"method": "magicmix", "concept": {**CONCEPT, "replacement": "banana"}, "kmax": 1.0, "kmin": 0.0, **away}
    calls, _ = seen(sdxl, {**guard, "gate": "always"}, clip_skip=1)
    assert torch.allclose(calls[-1][1], encoded(sdxl, "a banana on a table", clip_skip=1)[0], atol=1e-5)
    negative = encoded(sdxl, "cigarette, smoking") if away else encoded(sdxl, "")
    assert torch.allclose(calls[-1][0], negative[0], atol=1e-5) or not away


def test_prompts_are_read_as_the_pipeline_cleans_them() -> None:
    """Wan undoes HTML before it encodes: so do gates."""
    pipe = tiny_wan(None)
    with conceptguard.attach(pipe, {"guards": [{"method": "sld", "concept": CONCEPT}]}) as session:
        hidden, plain = session.host.tokens(["a &amp;#99;igarette", "a cigarette"])
        assert hidden == plain
        call = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 32}
        generate_wan(pipe, ["a &#99;igarette"], **call)
        assert session.receipt.acts[0].gates[0] == 1.0
