"""A finder looks through a ComfyUI model as through the same model in diffusers, and finds the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conceptguard.errors import SessionError
from conceptguard.finder import PictureSet, Search
from conceptguard.finding.files import guards_by_words
from conceptguard.finding.planted import SEEDS, Scene, compose, drawn_alone
from conceptguard.plugins import host_for, offers
from conceptguard.policy_file import load_policy

WORDS = ["umbrella", "sunflower", "car", "cat", "hammer", "bus", "moon", "pencil"]
SCENE = Scene((("umbrella", 0, 1, 30), ("sunflower", 0, 65, 40)), "noto", False, None)


def test_the_same_is_found_as_in_diffusers(parts: Any, pipe: Any) -> None:
    from conceptguard.hosts.comfyui.looking import LookingHost

    pixels, _ = compose(SCENE, drawn_alone(pipe, SEEDS["tune"], 10))
    given = PictureSet((pixels.clamp(0, 1) * 255).round().byte()[None], ["it"], [""])
    finder = offers("finders")["concept_express"]
    hosts = LookingHost(parts.model, parts.clip, parts.vae, (128, 128)), host_for(pipe)
    mine, theirs = (
        finder.find(Search(host, None, finder.FindSettings(steps=0), 0, "it", False, given, None, WORDS)).concepts
        for host in hosts
    )
    assert [one.evoked for one in mine] == [one.evoked for one in theirs]
    assert {"umbrella", "sunflower"} <= {word for one in mine for word in one.evoked}
    for one, other in zip(mine, theirs):
        assert torch.equal(one.maps, other.maps)
        assert [saved for _, saved in one.words] == pytest.approx([saved for _, saved in other.words], abs=0.01)
    assert load_policy({"guards": guards_by_words(mine)}).guards
    with pytest.raises(SessionError, match="give a square one"):
        LookingHost(parts.model, parts.clip, parts.vae, (128, 64))
