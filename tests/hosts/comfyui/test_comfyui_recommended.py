"""A server under the recommended policy, in a ComfyUI core of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from core import Unavailable
from graphs import APPLE, drawing
from paths import ROOT
from server import Client, install, serving

RULES = ROOT / "registry" / "policies" / "recommended-server.yaml"


@pytest.mark.slow
def test_a_disguised_word_opens_both_gates_and_an_apple_none(tmp_path: Path) -> None:
    install(tmp_path)
    audit = tmp_path / "audit.jsonl"
    try:
        with serving(tmp_path, CONCEPTGUARD_ENFORCE=str(RULES), CONCEPTGUARD_AUDIT=str(audit)) as port:
            client = Client(port)
            try:
                assert client.get("/conceptguard/status") == {"error": None, "enforced": "recommended-server"}
                for text in ("a man smoking a c1garette, noto style", APPLE):
                    run = client.run(drawing(text))
                    assert run.ok, run.error
            finally:
                client.socket.close()
    except Unavailable as why:
        pytest.skip(f"no ComfyUI core here: {why}")
    smoking, apple = (json.loads(line) for line in audit.read_text().splitlines())
    opened = {one["guard"] for one in smoking["opened"]}
    assert {"spm emoji-sd/spm/cigarette", "trce emoji-sd/trce/cigarette"} <= opened
    assert apple["status"] == smoking["status"] == "success" and not apple["opened"] and not apple["flagged"]
