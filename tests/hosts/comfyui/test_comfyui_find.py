"""Find Concepts in a real server, and what a person corrects in the sidebar, in a real browser."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from core import Unavailable
from graphs import node
from page import Page, chromium, draw_box
from PIL import Image, ImageDraw
from server import Client
from test_comfyui_page import ICON, SEARCH, pinned

PICTURES = 24


def drawn(number: int) -> bytes:
    """A red disc or a blue square, each at a place of its own."""
    chance = np.random.default_rng(number)
    picture = Image.new("RGB", (128, 128), "white")
    x, y, side = *chance.integers(4, 60, 2).tolist(), int(chance.integers(40, 60))
    box, pen = (x, y, x + side, y + side), ImageDraw.Draw(picture)
    if number % 2:
        pen.ellipse(box, fill="red")
    else:
        pen.rectangle(box, fill="blue")
    told = io.BytesIO()
    picture.save(told, "PNG")
    return told.getvalue()


@pytest.fixture(scope="module")
def pictures(server: int) -> str:
    """A folder of ComfyUI's input."""
    client = Client(server)
    for number in range(PICTURES):
        client.upload(f"{number:02}.png", drawn(number), "shapes")
    return "shapes"


def finding(folder: str, guarded: str = "", name: str = "shapes", **more: Any) -> dict[str, Any]:
    """A graph that looks through a folder, and checks one of its pictures by what was found."""
    find = node("ConceptGuardFind", finder="lens", folder=folder, name=name, guarded=guarded, **more)
    return {"find": find, "told": node("PreviewAny", source=["find", 1])}


def checking(number: int, **more: Any) -> dict[str, Any]:
    """The same, with Check Image."""
    return {
        **finding(**more), "picture": node("LoadImage", image=f"shapes/{number:02}.png"),
        "check": node("ConceptGuardCheckImage", image=["picture", 0], policy=["find", 0], action="flag"),
        "flagged": node("PreviewAny", source=["check", 1]),
    }  # fmt: skip


def concepts(client: Client, name: str = "shapes") -> list[str]:
    return next(list(one["concepts"]) for one in client.get("/conceptguard/found") if one["name"] == name)


def about(names: list[str], color: str) -> str:
    """The concept of a colour: what it is called is the encoder's."""
    return next(name for name in names if color in name)


def test_it_finds_and_guards_what_it_found(client: Client, pictures: str) -> None:
    run = client.run(finding(pictures))
    assert run.ok, run.error
    names = concepts(client)
    red = about(names, "red")
    assert run.told("conceptguard.found") == [{"name": "shapes"}] and red in run.texts("find")[0]
    unguarded = client.run(checking(1, folder=pictures))
    assert not unguarded.texts("flagged"), "what hangs on a policy of nothing does not run"
    flagged = {}
    for number in (0, 1):
        seen = client.run(checking(number, folder=pictures, guarded=red))
        assert seen.ok, seen.error
        flagged[number] = seen.texts("flagged")[0]
    assert flagged == {0: "False", 1: "True"}, "the disc is red, and the square is not"


@pytest.mark.parametrize(
    ("given", "told"),
    [({"folder": "../models"}, "not in ComfyUI's input"), ({"folder": ""}, "one of both"),
     ({"folder": "shapes", "guarded": "a pudding"}, "no concept 'a pudding' was found"),
     ({"folder": "nowhere"}, "no folder 'nowhere'")],
)  # fmt: skip
def test_what_it_refuses(client: Client, pictures: str, given: dict[str, str], told: str) -> None:
    assert told in client.run(finding(**given, name="refused")).error


def test_corrections_of_nothing(client: Client) -> None:
    assert b"run Find Concepts again" in client.post("/conceptguard/found/never/corrections", {})
    assert b"run Find Concepts again" in client.get("/conceptguard/found/never/")


def test_a_person_corrects_in_the_sidebar(client: Client, server: int, pictures: str) -> None:
    """Strike, call otherwise, draw a box: the probe is taught again at once, and the next run has it."""
    names = concepts(client)  # of the same pictures
    red = about(names, "red")
    gone = next(name for name in names if name != red)
    assert client.run(finding(pictures, red, "corrected")).ok
    try:
        with chromium() as browser:
            opened = Page(browser, server, pinned(), **{"Comfy.Locale": "en"})
            page = opened.page
            if not page.locator(SEARCH).is_visible():
                page.locator(ICON).click()
            page.locator(".cg-found .cg-look", has_text="corrected").click()
            inside = page.frame_locator("dialog.cg-page iframe")
            inside.locator(f'section[data-name="{gone}"] .strike').check()
            it = inside.locator(f'section[data-name="{red}"]')
            it.locator(".name").fill("a balloon")
            draw_box(page, it.locator(".seen").first)
            assert inside.locator(".box").count() == 1
            inside.locator("#apply").click()
            told = inside.locator("#told")
            told.get_by_text("wrote").first.wait_for(timeout=120_000)
            assert re.search(r"^[\d.]+ s$", told.inner_text(), re.M)
            page.locator("dialog.cg-page .cg-close").click()
            page.locator("dialog.cg-page").wait_for(state="detached")
            opened.close()
            assert not opened.errors, "\n".join(opened.errors)
    except Unavailable as why:
        pytest.skip(str(why))
    seen = client.run(checking(1, folder=pictures, guarded=red, name="corrected"))
    assert seen.texts("flagged") == ["True"], seen.error
    assert "a balloon" in client.get("/conceptguard/found/corrected/").decode(), "what was corrected is kept"
