"""Many prompts on one server, and a pack without its package. Slow: run with ``-m slow``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
from core import Unavailable
from graphs import APPLE, SMOKING, drawing, guarded, policy
from server import Client, install, pixels, serving

PROMPTS, SETTLE, MOST = 200, 40, 1.02
POLICIES = ["emoji-sd/spm/cigarette", "emoji-sd/uce/pistol", "emoji-sd/spm/beer", "emoji-sd/uce/skull"]

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1500)
def test_two_hundred_prompts(server: int) -> None:
    """Policies in turn, every tenth prompt without one: no memory that grows, no guard in another's prompt."""
    client = Client(server)
    processes = [p for p in psutil.Process().children(recursive=True) if str(server) in p.cmdline()]
    process = processes[0]
    bare = pixels(client, client.run(drawing(SMOKING, steps=2)).images("image")[0])
    used = []
    for n in range(PROMPTS):
        artifact = POLICIES[n % len(POLICIES)]
        if n % 10 == 9:
            same = client.run(drawing(SMOKING, steps=2, more={"class_type": "PrimitiveInt", "inputs": {"value": n}}))
            assert np.array_equal(pixels(client, same.images("image")[0]), bare)
        else:
            text = SMOKING if n % 2 else APPLE
            run = client.run(guarded(f"{text}, number {n}", policy(artifact=artifact), steps=2))
            assert run.ok, run.error
            receipt = run.texts("receipt")[0]
            opened = {line.split(":")[0].strip().split(" ", 1)[1] for line in receipt.splitlines() if ": open" in line}
            assert opened == ({artifact} if artifact.endswith("cigarette") and text == SMOKING else set())
        if n >= SETTLE:
            used.append(process.memory_info().rss)
    tenth = len(used) // 10
    first, last = np.median(used[:tenth]), np.median(used[-tenth:])
    print(f"memory over {PROMPTS} prompts: {first / 2**20:.0f} MiB to {last / 2**20:.0f} MiB, {last / first:.3f}")
    assert last / first < MOST


def test_a_pack_without_its_package(tmp_path: Path) -> None:
    """One clear error, a node and a route that say it; the server goes on."""
    install(tmp_path)
    shadow = tmp_path / "shadow" / "conceptguard"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise ImportError(\"No module named 'conceptguard'\")\n")
    try:
        with serving(tmp_path, PYTHONPATH=str(tmp_path / "shadow")) as port:
            assert (tmp_path / "server.log").read_text().count("pip install conceptguard") == 1
            client = Client(port)
            assert "pip install conceptguard" in client.get("/conceptguard/status")["error"]
            known = [name for name in client.get("/object_info") if name.startswith("ConceptGuard")]
            assert known == ["ConceptGuardMissing"]
            run = client.run({"1": {"class_type": "ConceptGuardMissing", "inputs": {}}})
            assert "pip install conceptguard" in run.error
    except Unavailable as why:
        pytest.skip(f"no ComfyUI core here: {why}")
