"""The pack in ComfyUI's page: a real browser, a real server, frontends of the core's own time and of today."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from core import Unavailable, core
from graphs import RED, SMOKING, guarded, looking, node, policy
from page import Page, chromium, frontend
from paths import ROOT
from server import Client

PACK = ROOT / "nodes"
NEWEST = "1.58.1"
CIGARETTE, PISTOL, PROBE = "emoji-sd/spm/cigarette", "emoji-sd/spm/pistol", "emoji-sd/probe/red"
ICON, SEARCH, TOLD, ADD = ".cg-icon", ".cg-search", ".cg-told", ".cg-card:visible .cg-add"
TOAST = ".p-toast-message, [data-testid=toast]"  # of PrimeVue, and of later frontends
# Every state that bars were seen in, from now on.
WATCH = """() => {
  const seen = (window.seen = new Set());
  const look = () => document.querySelectorAll(".cg-bars").forEach((bars) => seen.add(bars.dataset.state));
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
}"""


def pinned() -> str:
    """The frontend that the core asks for."""
    found = re.search(r"comfyui-frontend-package==(\S+)", (core() / "requirements.txt").read_text())
    return found[1] if found else NEWEST


def words(language: str) -> dict[str, Any]:
    return dict(json.loads((PACK / "locales" / language / "main.json").read_text())["conceptguard"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        with chromium() as found:
            yield found
    except Unavailable as why:
        pytest.skip(f"no browser here: {why}")


# The canvas of old, and nodes that are elements of the page (Nodes 2.0), in several languages.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param((None, "de", False, 1), id="pinned"),
        pytest.param((NEWEST, "fr", True, 2), id="newest"),
        pytest.param((NEWEST, "en", False, 3), id="newest-canvas", marks=pytest.mark.slow),
    ],
)
def page(request: pytest.FixtureRequest, browser: Any, server: int) -> Iterator[Page]:
    version, language, vue, number = request.param
    try:
        frontend(version or pinned())
    except Unavailable as why:
        pytest.skip(f"no frontend here: {why}")
    settings = {"Comfy.Locale": language, "Comfy.VueNodes.Enabled": vue}
    opened = Page(browser, server, version or pinned(), **settings)
    opened.words, opened.number = words(language), number  # number: what the server has in its cache is not run again
    yield opened
    opened.close()
    assert not opened.errors, "\n".join(opened.errors)


@pytest.fixture
def sidebar(page: Page) -> Any:
    """The open tab, with nothing searched."""
    page.clear()
    if not page.page.locator(SEARCH).is_visible():
        page.page.locator(ICON).click()
    page.page.locator(SEARCH).fill("")
    page.page.locator(".cg-card").first.wait_for()
    return page.page


def without_policy(**more: Any) -> dict[str, Any]:
    graph = guarded(**more)
    del graph["policy"], graph["guard"]["inputs"]["policy"]
    return graph


def test_choose_a_concept_run_and_see(page: Page, sidebar: Any) -> None:
    """A card is clicked, the graph is run, bars move in both nodes, and the picture is there."""
    page.load(without_policy(steps=12, seed=800 + page.number))
    sidebar.locator(SEARCH).fill("cigarette spm")
    assert sidebar.locator(".cg-card:visible").count() == 1
    sidebar.locator(ADD).click()
    chosen = page.graph()["guard"]["inputs"]["policy"][0]
    assert page.widgets(chosen)["artifact"] == CIGARETTE
    sidebar.evaluate(WATCH)
    page.run()
    done = sidebar.locator(".cg-bars[data-state=done]")
    done.nth(1).wait_for(state="attached")  # a node outside of the window is there and hidden
    assert set(sidebar.evaluate("[...seen]")) == {"running", "done"}
    for bar in done.locator(".cg-bar").all():
        assert bar.get_attribute("data-guard") == f"spm {CIGARETTE}" and float(bar.get_attribute("data-open")) == 1
        assert SMOKING in bar.get_attribute("title")
    assert page.words["receipt"]["done"].split()[1] in done.first.text_content()
    page.look_at("image")
    page.see_picture("image", 128)
    sidebar.locator(".cg-report", has_text=f"spm {CIGARETTE}: open 1.00").wait_for(state="attached")


def test_a_toast_when_an_image_is_held_back(page: Page) -> None:
    page.load(looking(RED + 40 + page.number, policy(artifact=PROBE), "hold back"))
    page.run()
    shown = page.page.locator(TOAST)
    shown.get_by_text(page.words["toast"]["held"].format(what="red")).first.wait_for()
    assert f"probe {PROBE}" in shown.all_inner_texts()[0]


def test_guards_are_chained_and_undone(page: Page, sidebar: Any) -> None:
    """A second concept goes into a second Policy, a file into what is free; each is one step of undo."""
    page.load(without_policy())
    for wanted in ("cigarette spm", "pistol spm emoji-sd", "no-alcohol"):
        sidebar.locator(SEARCH).fill(wanted)
        sidebar.locator(ADD).click()
    graph = page.graph()
    second = graph["guard"]["inputs"]["policy"][0]
    first = graph[second]["inputs"]["policy"][0]
    assert (graph[first]["inputs"]["artifact"], graph[second]["inputs"]["artifact"]) == (CIGARETTE, PISTOL)
    assert graph[first]["inputs"]["file"] == "no-alcohol"
    policies = "app.graph.nodes.filter(node => node.type === 'ConceptGuardPolicy').length"
    page.undo()
    page.undo()
    assert sidebar.evaluate(policies) == 1 and page.graph()["guard"]["inputs"]["policy"][0] == first


def test_a_card_is_dragged_onto_a_policy_and_onto_the_canvas(page: Page, sidebar: Any) -> None:
    page.load({"policy": policy(artifact=CIGARETTE)})
    page.look_at("policy")
    sidebar.locator(SEARCH).fill("pistol spm emoji-sd")
    card = sidebar.locator(".cg-card:visible h4")
    page.drop(card, page.place_of("policy"))
    assert page.widgets("policy")["artifact"] == PISTOL
    x, y = page.place_of("policy")
    page.drop(card, (x + 420, y + 260))
    graph = page.graph()
    assert len(graph) == 2
    (new,) = [each for key, each in graph.items() if key != "policy"]
    assert new["inputs"]["artifact"] == PISTOL and new["inputs"]["policy"] == ["policy", 0]


def test_a_run_that_was_cancelled_says_where(page: Page) -> None:
    steps = 4000  # so many that a busy machine has not drawn them before it hears of the interrupt
    page.load(guarded(steps=steps, seed=810 + page.number))
    page.run()
    page.page.locator(".cg-bars[data-state=running]").first.wait_for(state="attached")
    Client(page.port).post("/interrupt", {})
    stopped = page.page.locator(".cg-bars[data-state=stopped]").first
    stopped.wait_for(state="attached")
    step = re.search(r"\d+", stopped.locator("header span").first.text_content())
    assert step and 0 < int(step[0]) < steps


def test_an_example_sheet_is_shown_large(page: Page, sidebar: Any) -> None:
    sidebar.locator(".cg-thumb").first.click()
    sheet = sidebar.locator("dialog.cg-sheet img")
    sheet.wait_for()
    sidebar.wait_for_function("document.querySelector('dialog.cg-sheet img').naturalWidth > 500")
    sidebar.locator("dialog.cg-sheet").click()
    assert not sidebar.locator("dialog.cg-sheet").count()


def test_receipts_are_told_of_their_own_guard(client: Client) -> None:
    """With two guards one after the other only the last one's sampling is the receipt's."""
    graph = guarded(seed=91)
    assert client.run(graph).told("conceptguard.receipt")[-1]["receipts"] == ["receipt"]
    graph["second"] = policy(artifact=CIGARETTE)
    graph["again"] = node("ConceptGuardModel", model=["guard", 0], clip=["demo", 1], policy=["second", 0])
    graph["latent"]["inputs"]["model"] = ["again", 0]
    assert client.run(graph).told("conceptguard.receipt")[-1]["receipts"] == []
    graph["receipt"]["inputs"]["model"] = ["again", 0]
    graph["latent"]["inputs"]["seed"] = 92
    assert client.run(graph).told("conceptguard.receipt")[-1]["receipts"] == ["receipt"]


def test_a_guard_from_the_cache_is_told_of_at_its_new_place(client: Client) -> None:
    """The same guard in another graph: ComfyUI keeps the MODEL, and the page looks for the node that it has now."""
    graph = guarded(seed=93)
    assert client.run(graph).told("conceptguard.receipt")[-1]["node"] == "guard"
    graph["7:5"] = graph.pop("guard")
    graph["latent"]["inputs"] |= {"model": ["7:5", 0], "seed": 94}
    graph["receipt"]["inputs"]["model"] = ["7:5", 0]
    told = client.run(graph).told("conceptguard.receipt")[-1]
    assert (told["node"], told["receipts"]) == ("7:5", ["receipt"])


def test_every_language_says_everything(client: Client) -> None:
    """English is in the nodes themselves; other languages have every word, input and output of theirs."""

    def keys(part: Any, path: str = "") -> set[str]:
        if isinstance(part, dict):
            return set().union(*(keys(value, f"{path}.{key}") for key, value in part.items()))
        return {path, *(f"{path} {place}" for place in re.findall(r"\{\w+\}", part))}

    told = client.get("/i18n")
    nodes = {name: info for name, info in client.get("/object_info").items() if name.startswith("ConceptGuard")}
    for language in ("de", "fr"):
        assert keys(told[language]["conceptguard"]) == keys(told["en"]["conceptguard"])
        assert set(told[language]["nodeDefs"]) == set(nodes)
        for name, info in nodes.items():
            said = told[language]["nodeDefs"][name]
            inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
            assert said["display_name"] and said["description"] and set(said["inputs"]) == set(inputs), name
            for key, spec in inputs.items():
                explained = len(spec) > 1 and "tooltip" in spec[1]
                assert bool(said["inputs"][key].get("tooltip")) == bool(explained), f"{name} {key}"
            assert list(said["outputs"]) == [str(n) for n in range(len(info["output"]))], name


def test_every_node_has_a_help_page(client: Client) -> None:
    for name, info in client.get("/object_info").items():
        if not name.startswith("ConceptGuard"):
            continue
        text = client.get(f"/extensions/conceptguard/docs/{name}.md").decode()
        assert text.startswith("# ") and len(text) > 500, name
        for slot in (*info["input"].get("required", ()), *info["output_name"]):
            assert f"`{slot}`" in text, f"{name}: {slot}"
