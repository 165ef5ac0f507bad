"""ComfyUI's page in a real browser: Debian's Chromium, and frontends as their package ships them.

A frontend's files are given to the browser here, in front of the server, so that one server serves several versions.
"""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from core import CACHE, Unavailable, pip

PACKAGE = "comfyui-frontend-package"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-features=LocalNetworkAccessChecks",  # the page's files do not come from the server
]  # fmt: skip
READY = "window.app?.extensionManager && window.app.canvas?.graph && document.querySelector('.cg-icon')"
LOAD_S, WAIT_S = 120, 40


@cache
def frontend(version: str) -> Path:
    """The static files of a version of the frontend, outside of this tree. Raises Unavailable."""
    folder, downloads = CACHE / "front" / version, CACHE / "downloads"
    if not (folder / "index.html").is_file():
        pip([sys.executable], "download", "--no-deps", "--dest", str(downloads), f"{PACKAGE}=={version}")
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        with zipfile.ZipFile(next(downloads.glob(f"{PACKAGE.replace('-', '_')}-{version}-*.whl"))) as wheel:
            for name in wheel.namelist():
                target = part / name.partition("/static/")[2]
                if "/static/" in name and not name.endswith(("/", ".map")):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(wheel.read(name))
        part.rename(folder)
    return folder


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser. Raises Unavailable."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise Unavailable(f"the browser is driven with playwright ({error})") from None
    program = shutil.which("chromium")
    if program is None:
        raise Unavailable("no chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


def draw_box(page: Any, picture: Any) -> None:
    """With the mouse, from (20, 30) to (84, 94) of a picture on the page of what was found."""
    picture.scroll_into_view_if_needed()
    around = picture.bounding_box()
    page.mouse.move(around["x"] + 20, around["y"] + 30)
    page.mouse.down()
    page.mouse.move(around["x"] + 84, around["y"] + 94)
    page.mouse.up()


class Page:
    """ComfyUI in a window, without a graph. page: playwright's; errors: what the console said of the pack's files."""

    def __init__(self, browser: Any, port: int, version: str, **settings: Any):
        self.port, self.version, self._files = port, version, frontend(version)
        self.errors: list[str] = []
        self.words: dict[str, Any] = {}
        self.number = 0
        self._set({"Comfy.TutorialCompleted": True, "Comfy.Locale": "en", "Comfy.VueNodes.Enabled": False, **settings})
        self.page = browser.new_page(viewport={"width": 1500, "height": 900})
        self.page.set_default_timeout(WAIT_S * 1000)
        self.page.on("console", lambda told: self._note(told.type, told.text, told.location["url"]))
        self.page.on("pageerror", lambda error: self._note("error", f"{error}\n{error.stack}", ""))
        self.page.route("**/*", self._give)
        self.page.goto(self.address)
        self.page.wait_for_function(READY, timeout=LOAD_S * 1000)
        self.clear()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def clear(self) -> None:
        """An empty graph."""
        self.page.evaluate("app.graph.clear()")

    def load(self, graph: dict[str, Any]) -> None:
        """A graph as it is posted, as nodes; seen whole."""
        self.page.evaluate("graph => app.loadApiJson(graph, 'test')", graph)

    def run(self) -> None:
        """Queue what is there."""
        self.page.evaluate("app.queuePrompt(0)")

    def widgets(self, node: str | int) -> dict[str, Any]:
        """What a node's widgets say, by their names."""
        code = "id => Object.fromEntries(app.graph.getNodeById(id).widgets.map(w => [w.name, w.value]))"
        return dict(self.page.evaluate(code, node))

    def graph(self) -> dict[str, Any]:
        """As it would be posted."""
        return dict(self.page.evaluate("app.graphToPrompt().then(found => found.output)"))

    def see_picture(self, node: str, width: int) -> None:
        """Wait until a node shows a picture of this width in pixels, on the canvas or as an element."""
        code = """([id, width]) => {
          const shown = app.graph.getNodeById(id).imgs ?? [];
          const element = document.querySelector(`[data-node-id="${id}"] img`);
          return [...shown, element].some((image) => image?.naturalWidth === width);
        }"""
        self.page.wait_for_function(code, arg=[node, width])

    def undo(self) -> None:
        """As with Ctrl+Z."""
        self.page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")

    def look_at(self, node: str | int) -> None:
        """Bring a node into the middle of the window."""
        self.page.evaluate("id => app.canvas.centerOnNode(app.graph.getNodeById(id))", node)
        self.page.wait_for_timeout(300)

    def place_of(self, node: str | int) -> tuple[float, float]:
        """Where in the window a node's upper part is."""
        code = "n => app.canvasPosToClientPos([n.pos[0] + n.size[0] / 2, n.pos[1] + 20])"
        x, y = self.page.evaluate(f"id => ({code})(app.graph.getNodeById(id))", node)
        return x, y

    def drop(self, element: Any, place: tuple[float, float]) -> None:
        """Drag an element with the mouse to a place of the window."""
        element.hover()
        self.page.mouse.down()
        self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()

    def close(self) -> None:
        self.page.close()

    def _note(self, kind: str, text: str, where: str) -> None:
        ours = where.startswith(self.address) or not where  # what the frontend asks of other servers is its own affair
        if ours and kind in ("error", "warning") and "conceptguard" in f"{text} {where}".lower():
            self.errors.append(f"{kind}: {text} ({where})")

    def _give(self, route: Any) -> None:
        path = self._files / (urlsplit(route.request.url).path.lstrip("/") or "index.html")
        if path.is_file():
            route.fulfill(path=path)
        elif route.request.url.startswith(self.address):
            route.continue_()
        else:
            route.abort()  # nothing is fetched from elsewhere

    def _set(self, settings: dict[str, Any]) -> None:
        body, kind = json.dumps(settings).encode(), {"Content-Type": "application/json"}
        urlopen(Request(f"{self.address}settings", body, kind)).close()
