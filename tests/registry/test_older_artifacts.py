"""Artifacts of emoji-sd's first version, as they shipped then, are read today."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from commands import reported, said
from paths import DATA

import conceptguard
from conceptguard.errors import BaseMismatch
from conceptguard.registry import Registry, open_artifact

OLD = DATA / "emoji_sd_1"
FOLDERS = ["safree/bomb", "probe/beer"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_older_artifact_is_read(folder: str) -> None:
    artifact = open_artifact(OLD / "emoji-sd" / folder)
    method, concept = folder.split("/")
    assert artifact.ref == f"emoji-sd/{folder}" and artifact.manifest.version == "1"
    assert artifact.manifest.method == method and artifact.manifest.concept.name == concept
    assert artifact.verify() == artifact.size
    assert all(torch.isfinite(tensor).all() and tensor.numel() for tensor in artifact.tensors().values())


def test_what_was_made_with_another_encoder_says_so(pipe: Any) -> None:
    guards = [{"method": "safree", "artifact": str(OLD / "emoji-sd" / "safree" / "bomb")}]
    with pytest.raises(BaseMismatch, match=r"made with another text_encoder: .* make it again for this model"):
        conceptguard.attach(pipe, {"guards": guards})


def test_a_probe_of_an_older_model_still_attaches(pipe: Any) -> None:
    guards = [{"method": "probe", "artifact": str(OLD / "emoji-sd" / "probe" / "beer")}]
    with conceptguard.attach(pipe, {"guards": guards}) as session:
        pipe("a dog", num_inference_steps=2, output_type="pt")
        assert len(session.receipt.acts) == 1


def test_older_artifacts_are_shown_verified_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in FOLDERS:
        (row,) = reported(capsys, "verify", OLD / "emoji-sd" / folder)["rows"]
        assert row["ok"] is True
        assert "version" in said(capsys, "show", OLD / "emoji-sd" / folder)[0]
    assert [entry.ref for entry in Registry([OLD]).entries()] == [f"emoji-sd/{folder}" for folder in sorted(FOLDERS)]
