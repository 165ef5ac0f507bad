"""A person corrects what was found: the files change, the probe is taught again, and it is worth it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conceptguard_plugins.pictures.probe.net import ProbeNet
from core import Unavailable
from page import chromium, draw_box
from small_planted import STEPS, found, planted, search

from conceptguard.errors import ConceptGuardError, PolicyError
from conceptguard.finding.checks import present
from conceptguard.finding.corrections import (
    Box,
    Corrections,
    checked,
    corrected,
    corrections_of,
    cut_out,
    settings_with,
)
from conceptguard.finding.files import write_probe
from conceptguard.finding.planted import FIRST, plant
from conceptguard.plugins import offers
from conceptguard.registry import open_artifact
from conceptguard.testing import embedded_model

PROBED = "beer"
WHOLE = (0.0, 0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Any]]:
    """(where the page is, its files, the command); of the first concept too few pictures are found for a probe"""
    out = tmp_path_factory.mktemp("served")
    words = ["find", "lens", "--pictures", folder, "--out", out, "--probe", FIRST, "--probe", PROBED, "--correct"]
    # Whoever runs tests in the background ignores ctrl-C, and so would what they start.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", heeding + "from conceptguard.cli import main; main()", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    url = next(found[0] for line in process.stdout if (found := re.findall(r"http://\S+", line)))
    yield url, out, process
    process.kill()
    process.wait()


def test_a_person_corrects_in_a_browser(served: tuple[str, Path, Any]) -> None:
    url, out, _ = served
    before = yaml.safe_load((out / "concepts.yaml").read_text())
    try:
        with chromium() as browser:
            page = browser.new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(url)
            page.locator(f'section[data-name="{FIRST}"] .strike').check()
            it = page.locator(f'section[data-name="{PROBED}"]')
            it.locator(".name").fill("what I mean")
            for i in range(2):  # one that is it, and one that is not
                draw_box(page, it.locator(".seen").nth(i))
                it.locator(".no").check()
            assert page.locator(".box").count() == 2 and page.locator(".box.not").count() == 1
            page.locator("#apply").click()
            page.wait_for_function("document.querySelector('#told').textContent.includes('wrote')", timeout=120_000)
            assert re.search(r"^[\d.]+ s$", page.locator("#told").inner_text(), re.M)
            with page.expect_download() as saved:
                page.locator("#corrections").click()
            said = yaml.safe_load(Path(saved.value.path()).read_text())
            assert not errors
    except Unavailable as why:
        pytest.skip(str(why))
    after = [one["name"] for one in yaml.safe_load((out / "concepts.yaml").read_text())]
    assert "what I mean" in after and not {FIRST, PROBED} & set(after) and len(after) == len(before) - 1
    assert said["strike"] == [FIRST] and said["rename"] == {PROBED: "what I mean"}
    here, gone = said["boxes"]
    assert here["here"] and not gone["here"] and here["concept"] == PROBED
    assert here["box"] == pytest.approx([20 / 128, 30 / 128, 84 / 128, 94 / 128], abs=0.01)
    probe = open_artifact(out / "pictures" / "probe" / "what-i-mean")
    assert probe.manifest.made["boxes"] == 1 and probe.manifest.made["boxes_not"] == 1
    guards = yaml.safe_load((out / "policy.yaml").read_text())["guards"]
    assert [one["artifact"] for one in guards] == ["./pictures/probe/what-i-mean"]


def test_what_the_server_refuses(served: tuple[str, Path, Any]) -> None:
    url, out, _ = served
    before = (out / "concepts.yaml").read_bytes()

    def sent(to: str, body: Any) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(urllib.request.Request(to, json.dumps(body).encode())) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    root = re.match(r"http://127\.0\.0\.1:\d+/", url)
    assert root is not None, "nobody else's machine"
    assert sent(f"{root[0]}corrections", {})[0] == 404, "who does not know the address corrects nothing"
    status, told = sent(f"{url}corrections", {"strike": ["a pudding"]})
    assert status == 400 and "no concept of that name was found" in told
    assert sent(f"{url}corrections", {"stroke": []})[0] == 400 and sent(f"{url}corrections", [1])[0] == 400
    status, told = sent(f"{url}corrections", {"rules": ["guarded: " + yaml.safe_load(before)[0]["name"]]})
    assert status == 400 and "lens keeps no rules: `conceptguard find confounders` does" in told
    assert (out / "concepts.yaml").read_bytes() == before


def test_it_ends_with_ctrl_c(served: tuple[str, Path, Any]) -> None:
    process = served[2]
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert process.wait(20) == 0 and time.monotonic() - began < 20


def tight(mask: torch.Tensor) -> tuple[float, ...]:
    """The box around what is true of a mask [side, side]."""
    ys, xs = mask.nonzero().T
    edges = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / len(mask)
    return tuple(edges.tolist())


def taught(said: Corrections, name: str, out: Path) -> float:
    """How well a probe that was taught by corrections tells pictures that nobody looked through, as the area under the
    ROC curve; chance where it cannot be taught."""
    fresh = plant(embedded_model(), 24, "judge", STEPS)
    pictures, concept = planted().pictures, next(one for one in found("lens").concepts if one.name == name)
    more = cut_out(pictures, said, name, True), cut_out(pictures, said, name, False)
    try:
        artifact = write_probe(out, corrected([concept], pictures, said)[0], pictures, 0, more=more)
    except ConceptGuardError:
        return 0.5
    net = ProbeNet().eval()
    net.load_state_dict({key: value.float() for key, value in artifact.tensors().items()})
    with torch.no_grad():
        scores, truth = net(fresh.pictures.pixels.float() / 255), fresh.truths[name]
    return float((scores[truth][:, None] > scores[~truth]).float().mean())


@pytest.mark.slow
def test_a_correction_is_worth_it(tmp_path: Path) -> None:
    """Somebody who knows says it of every picture that was taken wrongly; a control says as much at random."""
    it, name = planted(), FIRST
    truth = it.truths[name]
    concept = next(one for one in found("lens").concepts if one.name == name)
    wrong = (present(concept) != truth).nonzero()[:, 0].tolist()
    random = torch.Generator().manual_seed(0)
    any_of_them = torch.randperm(len(truth), generator=random)[: len(wrong)].tolist()

    def told(i: int, here: bool) -> Box:
        box = tight(it.masks[name][i]) if here and truth[i] else WHOLE
        return Box(concept=name, picture=it.pictures.names[i], here=here, box=box)

    known = Corrections(boxes=[told(i, bool(truth[i])) for i in wrong])
    guessed = Corrections(boxes=[told(i, bool(torch.rand(1, generator=random) < 0.5)) for i in any_of_them])
    assert len(wrong) > 5
    corrected_by_who_knows = taught(known, name, tmp_path / "known")
    assert corrected_by_who_knows > 0.85
    assert corrected_by_who_knows > taught(guessed, name, tmp_path / "guessed") + 0.1
    assert corrected_by_who_knows > taught(Corrections(), name, tmp_path / "nothing") + 0.1


def test_boxes_say_what_a_picture_shows() -> None:
    pictures = planted().pictures
    concept = next(one for one in found("lens").concepts if 8 < int(present(one).sum()) < 40)
    there, absent = (int(x.nonzero()[0]) for x in (present(concept), ~present(concept)))
    said = Corrections(
        boxes=[
            Box(concept=concept.name, picture=pictures.names[there], here=False, box=WHOLE),
            Box(concept=concept.name, picture=pictures.names[absent], box=(0.25, 0.5, 0.75, 1)),
        ],
        rename={concept.name: "it"},
    )
    checked(said, [concept], pictures)
    (it,) = corrected([concept], pictures, said)
    assert it.name == "it" and it.evoked == ("it",)
    assert bool(present(it)[absent]) and not bool(present(it)[there])
    others = [i for i in range(len(pictures)) if i not in (there, absent)]
    assert torch.equal(it.scores[others], concept.scores[others])
    own, kept = (cut_out(pictures, said, concept.name, here) for here in (True, False))
    assert torch.equal(kept[0], pictures.pixels[there]) and own.shape == kept.shape
    assert corrected([concept], pictures, Corrections(strike=[concept.name])) == []


def test_a_finder_decides_by_rules_itself() -> None:
    """The same as by its settings."""
    asked = search("confounders")
    finder = offers("finders")["confounders"]
    before = finder.find(asked)
    rule = f"{before.rows[0]['about']}: {before.rows[0]['concept']}"
    settings = settings_with(asked.settings, Corrections(rules=[rule]))
    after = finder.find(search("confounders", **settings.model_dump()))
    assert settings.rules == [rule] and after.figures["accuracy_before"] == before.figures["accuracy_before"]
    assert set(after.figures) > set(before.figures)
    unruled = search("lens").settings
    assert settings_with(unruled, Corrections(rules=[rule])) is unruled


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"boxes": [{"concept": "a", "picture": "b", "box": [0.5, 0.5, 0.5, 0.9]}]}, "in shares of a side"),
        ({"boxes": [{"concept": "a", "picture": "b", "box": [0, 0, 2, 1]}]}, "in shares of a side"),
        ({"boxes": [{"concept": "a", "picture": "b", "box": [0, 0, float("nan"), 1]}]}, "in shares of a side"),
        ({"boxes": [{"concept": "a", "box": [0, 0, 1, 1]}]}, "boxes.0.picture: Field required"),
        ({"struck": []}, "struck: Extra inputs"),
        ("beer", "corrections.yaml"),
    ],
)
def test_what_is_no_correction(said: Any, why: str) -> None:
    with pytest.raises(PolicyError, match=why):
        corrections_of(said, "corrections.yaml")
