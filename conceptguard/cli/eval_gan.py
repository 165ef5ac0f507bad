"""``conceptguard eval --suite gan``: what a GAN's generator forgot, read by judges that no maker sees."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .eval_bench import judged, load_net, verify

if TYPE_CHECKING:
    from ..policy import Policy

GAN, DEFAULT = "gan", "emoji-gan"
COLUMNS = [
    "method", "concept", "erased_before", "erased_after", "others_before", "others_after", "edited_before",
    "edited_after", "second_erased_after", "second_others_after", "degree", "shift", "make_seconds", "passes",
]  # fmt: skip


def eval_gan(
    model: str, methods: Sequence[str], policies: Sequence[Policy], concepts: str | None, settings: dict[str, Any],
    device: str | None, check: bool, json: str | None,
) -> None:  # fmt: skip
    """Make what the methods make of every concept, judge it with policies and controls, and print the table. With
    ``check`` exit with 1 where a guard misses the bar."""
    from ..errors import PolicyError
    from .devices import pick_device
    from .output import report

    begin = time.perf_counter()
    net = load_net(model, DEFAULT, "object_names", "no generator whose objects a judge knows", device)
    from ..measuring.gan.run import CONCEPTS, Bench

    bench = Bench(net)
    wanted = CONCEPTS if concepts is None else list(bench.places) if concepts == "all" else concepts.split(",")
    if strange := [name for name in wanted if name not in bench.places]:
        raise PolicyError(f"the generator has no '{strange[0]}': it draws {', '.join(bench.places)}")
    found = judged(bench, wanted, methods, policies, settings, "concepts")
    report("eval", found, time.perf_counter() - begin, json, str(pick_device(device)), columns=COLUMNS, suite=GAN,
           set=settings)  # fmt: skip
    if check:
        verify(found, ("none", "renamed", "noise"))
