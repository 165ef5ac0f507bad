"""Learnt words in ComfyUI: ``embedding:name`` is unread, whatever its letters say."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfy_bench import Parts
from comfy_bench import parts as loaded_parts
from safetensors.torch import save_file

import conceptguard
from conceptguard.errors import Refused


def test_an_embedding_is_read_by_what_it_encodes_to(comfy: None, tmp_path: Path) -> None:
    model, clip = loaded_parts()
    weight = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    token = clip.tokenize("skull")["l"][0][1][0]
    save_file({"emb_params": weight[token].detach().float().clone()[None]}, str(tmp_path / "own.safetensors"))
    clip = clip.clone()
    before = clip.tokenizer.clip_l.embedding_directory
    clip.tokenizer.clip_l.embedding_directory = [str(tmp_path)]
    policy = {"guards": [{"method": "spm", "artifact": "emoji-sd/spm/skull"}]}
    try:
        both = Parts((model, clip))
        with conceptguard.attach(both, policy) as session:
            both.session = session
            both(["an embedding:own, noto style"], [""], [0], 1, 3.0)
            assert session.receipt.acts[0].gates[-1] == 1.0 and session.receipt.rows[-1].text is None
        both = Parts((model, clip))
        with conceptguard.attach(both, {**policy, "unread": "refuse"}) as session:
            both.session = session
            with pytest.raises(Refused, match="whose text policy 'policy' has not seen"):
                both(["an embedding:own, noto style"], [""], [0], 1, 3.0)
    finally:
        clip.tokenizer.clip_l.embedding_directory = before
