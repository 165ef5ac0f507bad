"""A guard that looks at pictures, for tests of what becomes of them."""

from __future__ import annotations

from conceptguard import Method, hookimpl
from conceptguard.generation.images import Images
from conceptguard.receipt import Verdict


class FlagsApples(Method):
    """Flags every picture whose prompt names an apple."""

    name = "flags-apples"
    needs = "nothing"

    @hookimpl
    def check_image(self, images: Images) -> None:
        for i, text in enumerate(images.prompts):
            images.verdicts.append(Verdict(i, self.name, "apple", 0.9, "apple" in (text or ""), [(0, 0, 32, 64)]))
