"""How emoji-captioner is taught: several things are asked of one picture at once, and none of them sees another."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from conceptguard_registry.build.emoji_captioner.lessons import Batch, batch_of, lessons_of
from conceptguard_registry.build.emoji_captioner.model import IMAGE, SEEN, SIZE, learn_tokenizer, make_model
from conceptguard_registry.build.emoji_captioner.train import views

from conceptguard.measuring.captioner.words import Lesson, load_words
from conceptguard.registry import shipped_folder


@cache
def parts() -> tuple[Any, Any]:
    words, rng = load_words(), np.random.default_rng(0)
    corpus = [one for name in words.things for one in lessons_of(words, name, "noto", rng)]
    tokenizer = learn_tokenizer(f"{one.prompt} {one.answer}" for one in corpus)
    torch.manual_seed(0)
    return tokenizer, make_model(tokenizer, shipped_folder() / "models" / "emoji-encoder").eval()


def said(batch: Batch, pixels: Any) -> torch.Tensor:
    """Scores at what is learnt, in order."""
    model = parts()[1]
    with torch.no_grad():
        states = model.model(input_ids=batch.ids, pixel_values=pixels, attention_mask=batch.mask,
                             position_ids=batch.places, use_cache=False).last_hidden_state  # fmt: skip
    return model.lm_head(states[:, :-1][batch.labels[:, 1:] != -100])


def test_each_question_is_as_if_it_were_asked_alone() -> None:
    tokenizer, model = parts()
    seen = [Lesson(f"{IMAGE}Caption:", "a dog, mono style"), Lesson(f"{IMAGE}Question: What is it?\nAnswer:", "a dog")]
    told = Lesson("Question: What is a dog known for?\nAnswer:", "it barks")
    pixels = torch.randn(1, 3, SIZE, SIZE)
    together = said(batch_of(tokenizer, [[*seen, told]]), pixels)
    alone = [said(batch_of(tokenizer, [[one]]), pixels) for one in seen]
    assert torch.allclose(together[: sum(map(len, alone))], torch.cat(alone), atol=1e-4)
    ids = tokenizer(f"{told.prompt} {told.answer}{tokenizer.eos_token}", return_tensors="pt").input_ids
    with torch.no_grad():
        plain = model(input_ids=ids).logits[0, :-1]
    of_told = together[sum(map(len, alone)) :]
    assert torch.allclose(of_told, plain[-len(of_told) :], atol=1e-4), "without a picture, in the same places"
    asked = tokenizer(f"{seen[1].prompt} {seen[1].answer}{tokenizer.eos_token}".replace(IMAGE, IMAGE * SEEN))
    with torch.no_grad():
        plain = model(input_ids=torch.tensor([asked.input_ids]), pixel_values=pixels).logits[0, :-1]
    assert torch.allclose(alone[1], plain[-len(alone[1]) :], atol=1e-4), "as the model is asked by whoever uses it"


def test_what_judges_is_not_taught() -> None:
    words, rng = load_words(), np.random.default_rng(1)
    taught = {lesson.prompt for _ in range(200) for lesson in lessons_of(words, "dog", "mono", rng)}
    kinds = ("name", "named_kind", "kind", "style", "fact", "is")
    assert len(taught) > 20 and not taught & {words.judging(kind, "dog", "mono").prompt for kind in kinds}
    assert not taught & {one.prompt for name in words.things for one in words.told(name, judging=True)}


def test_views_differ_and_are_what_the_model_is_given() -> None:
    tile = torch.rand(1, 3, SIZE, SIZE).expand(4, -1, -1, -1)
    one, same, other = (views(tile, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.shape == (4, 3, SIZE, SIZE) and torch.equal(one, same) and not torch.allclose(one, other)
    assert not torch.allclose(one[0], one[1])
