"""The host's own terms, one by one, as columns of the table of promises: what a user may have turned on in diffusers.

Each column is a pipeline in several such states; in all of them an unrelated prompt must stay untouched and the guard
must act, or the combination be refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from conceptguard.errors import ConceptGuardError
from conceptguard.testing import Case, ContractBroken, NotApplicable
from conceptguard.testing.bench import Bench
from conceptguard.testing.matrix import BROKEN, KEPT, NONE, REFUSED
from conceptguard.testing.terms_of_host import keeps_working

Adapt = Callable[[Any, str], None]  # a pipeline with a denoiser of its own, and the denoiser's name
HOME = torch.device("cpu")
COMPILED = ("spm", "safree", "sld")  # one of each kind: terms, conditions, predictions; tracing takes seconds
SKIPPED = "mid_block.attentions.0.transformer_blocks"


def _caches(pipe: Any, steps: int) -> Iterator[tuple[str, Any]]:
    import diffusers as d

    everywhere = (-1, 1001)
    yield "first block cache", d.FirstBlockCacheConfig(threshold=0.5)
    yield (
        "MagCache",
        d.MagCacheConfig(
            num_inference_steps=steps,
            threshold=0.5,
            max_skip_steps=2,
            retention_ratio=0.1,
            mag_ratios=torch.ones(steps),
        ),
    )
    yield "TaylorSeer", d.TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=2)
    yield "pyramid attention broadcast", d.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=everywhere,
        cross_attention_block_skip_range=2, cross_attention_timestep_skip_range=everywhere,
        current_timestep_callback=lambda: 500,
    )  # fmt: skip


def _guiders() -> Iterator[tuple[str, Any]]:
    from diffusers import guiders as g
    from diffusers.hooks import LayerSkipConfig

    every = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    yield "zero star", partial(g.ClassifierFreeZeroStarGuidance, zero_init_steps=0)
    yield "adaptive projected", g.AdaptiveProjectedGuidance
    yield "auto", partial(g.AutoGuidance, auto_guidance_config=LayerSkipConfig(fqn=SKIPPED, indices=[0]))
    yield (
        "skip layer",
        partial(g.SkipLayerGuidance, skip_layer_config=LayerSkipConfig(fqn=SKIPPED, indices=[0]), **every),
    )
    yield "tangential", g.TangentialClassifierFreeGuidance


def states(column: str, host: str, bench: Bench) -> Iterator[tuple[str, Callable[[], Any], Bench]]:
    """(name, makes the pipeline, the bench that draws with it) for every state of a column. Raises NotApplicable."""
    name, pipe = bench.denoiser_name, bench.pipe

    def with_own(change: Callable[[Any], Any]) -> Callable[[], Any]:
        def make() -> Any:
            copy = bench.copied()
            change(getattr(copy, name))
            return copy

        return make

    if column == "caches":
        if not hasattr(getattr(pipe, name), "enable_cache"):
            raise NotApplicable("this denoiser takes none of diffusers' caches")
        longer = Bench(_changed(bench.case, steps=4))
        for label, config in _caches(pipe, 4):
            yield label, with_own(partial(_enable, config)), longer
    elif column == "compiled":
        if bench.method.name not in COMPILED:
            raise NotApplicable("tried with one guard of each kind: spm, safree and sld")
        yield "compiled", with_own(lambda model: model.compile(backend="eager")), bench
    elif column == "offloaded":
        group = {"onload_device": HOME, "offload_device": HOME, "offload_type": "leaf_level"}
        yield "group offload", with_own(lambda model: model.enable_group_offload(**group)), bench
        types = torch.float8_e4m3fn, torch.float32
        yield "layerwise casting", with_own(lambda model: model.enable_layerwise_casting(*types)), bench
    elif column == "guidance":
        yield from _guidance(host, bench)


def _enable(config: Any, model: Any) -> None:
    model.enable_cache(config)


def _guidance(host: str, bench: Bench) -> Iterator[tuple[str, Callable[[], Any], Bench]]:
    from diffusers import AutoPipelineForText2Image

    if host == "modular SDXL":
        for label, guider in _guiders():

            def make(guider: Any = guider) -> Any:
                copy = bench.copied()
                copy.update_components(guider=guider())
                return copy

            yield label, make, bench
        return
    layers = {"SD 1.x": "down_blocks.1", "SDXL": "down_blocks.1", "SD 3": "transformer_blocks.1"}.get(host)
    if layers is None:
        raise NotApplicable("no pipeline of this family has a guidance of its own beside the classic one")

    def perturbed() -> Any:
        copy = AutoPipelineForText2Image.from_pipe(bench.copied(), enable_pag=True, pag_applied_layers=[layers])
        copy.set_progress_bar_config(disable=True)
        return copy

    yield "perturbed attention", perturbed, bench
    if host == "SD 3":
        call = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
        yield "skip layer", bench.copied, Bench(_changed(bench.case, steps=3, call={**bench.case.call, **call}))


def _changed(case: Case, **changes: Any) -> Case:
    from dataclasses import replace

    return replace(case, **changes)


COLUMNS = ("caches", "compiled", "offloaded", "guidance")


def rows(method: str, host: str, case: Case, without: str = "") -> Iterator[dict[str, Any]]:
    """One row for each column, as the probe gives them. without: why a guard cannot be seen to act here."""
    for column in COLUMNS:
        kept, told = 0, []
        result = NONE
        try:
            if without:
                raise NotApplicable(without)
            for label, make, bench in states(column, host, Bench(case)):
                outcome, why = _outcome(bench, make, label)
                kept += outcome != NONE
                told += [f"{label}: {why}"] if why else []
                ranks = [NONE, KEPT, REFUSED, BROKEN]
                result = max(result, outcome, key=ranks.index)
        except NotApplicable as reason:
            told = [str(reason)]
        yield {
            "method": method, "host": host, "promise": 7, "term": column, "result": result, "checks": kept,
            "why": "; ".join(" ".join(why.split()) for why in told),
        }  # fmt: skip


def _outcome(bench: Bench, make: Callable[[], Any], label: str) -> tuple[str, str]:
    try:
        bench.adapted(label, make)
    except Exception as error:
        return NONE, f"unguarded, too, it does not work ({' '.join(str(error).split())[:120]})"
    try:
        keeps_working(bench, make, label)
    except NotApplicable as reason:
        return NONE, str(reason)
    except ContractBroken as error:
        return BROKEN, str(error)
    except ConceptGuardError as error:
        meant = error.__cause__ is None or isinstance(error.__cause__, ConceptGuardError)
        return (REFUSED if meant else BROKEN), str(error)
    except Exception as error:
        return BROKEN, f"{type(error).__name__}: {error}"
    return KEPT, ""
