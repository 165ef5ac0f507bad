"""Guards on emoji-flow in ComfyUI, judged as `conceptguard eval` judges them in diffusers: same prompts, same columns.

Each picture is sampled as KSampler does, alone, from the prompt's own seed. Methods with an artifact are judged by it,
those that take a concept in words by the suite's. Guards that look at finished pictures have no part in sampling, and
are left out. Run it with the Python that runs ComfyUI.

    python -m tools.flow_comfyui ~/ComfyUI --method sld --method uce --json FILE
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import conceptguard
from conceptguard.cli.options import settings_of
from conceptguard.hosts.comfyui.core import import_core
from conceptguard.measuring.cases import Case, case, policy_for
from conceptguard.measuring.evaluate import Judged, controls, row
from conceptguard.measuring.judges import Judges, load_judges
from conceptguard.measuring.samples import Pictures
from conceptguard.measuring.suite import Sample, load_suite
from conceptguard.registry import Registry

from .rows import parser_of, write_rows

MODEL, GUIDANCE = "emoji-flow", 3.5
NOTHING = ""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("comfyui", type=Path, help="ComfyUI's folder")
    parser.add_argument("--method", action="append", required=True, help="may be repeated")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="a setting of the methods")
    parser.add_argument("--artifacts", type=Path, help="a registry whose artifacts are judged; default: what ships")
    parser.add_argument("--concept", default="pistol")
    parser.add_argument("--n", type=int, default=2, help="prompts for the concept, and as eval has it for the rest")
    parser.add_argument("--steps", type=int, default=20, help="of each picture")
    asked = parser.parse_args()
    import_core(asked.comfyui)
    suite, place = load_suite(MODEL), Registry([asked.artifacts]) if asked.artifacts else None
    given, cases = settings_of(asked.set), []
    for name in asked.method:
        rules = policy_for(suite, name, [asked.concept], settings=given, registry=place)
        label = " ".join([name, *(f"{key}={value}" for key, value in given.items())])
        cases.append(case(suite, label, [asked.concept], rules, asked.n, 2 * asked.n))
    write_rows("eval", rows(cases, load_judges(suite), asked.steps), asked.json)


@torch.inference_mode()
def rows(cases: Sequence[Case], judges: Judges, steps: int) -> Iterator[dict[str, Any]]:
    """One for each case, then the controls. The unguarded pictures are drawn once."""
    from conceptguard.hosts.comfyui.clip import GuardedCLIP
    from conceptguard.hosts.comfyui.load import load_parts

    parts, bare, found = load_parts(MODEL), {}, []
    for one in cases:
        for sample in one.samples:
            if sample not in bare:
                bare[sample] = drawn(parts, sample, steps)
        session, encoder = (conceptguard.attach((parts.model, parts.clip), one.policy) for _ in range(2))
        host: Any = session.host
        host.candidates = lambda one=one: [NOTHING, *(sample.prompt for sample in one.samples)]
        guarded = parts._replace(model=host.guarded(), clip=GuardedCLIP(parts.clip, encoder))
        after = [together([drawn(guarded, it, steps, parts.clip) for it in group]) for group in one.groups]
        before = [together([bare[it] for it in group]) for group in one.groups]
        told = row(judges, one, before, after, f"{MODEL} in ComfyUI")
        found.append(Judged(one, told, before, after))
        yield told
    yield from controls(judges, found, f"{MODEL} in ComfyUI")


def drawn(parts: Any, sample: Sample, steps: int, plain: Any = None) -> torch.Tensor:
    """One picture [1, 3, h, w] in [0, 1], as KSampler and VAE Decode give it. plain: the CLIP that encodes the negative
    prompt, where the prompt's own is guarded."""
    import comfy.sample

    by = ((parts.clip, sample.prompt), (plain or parts.clip, NOTHING))
    texts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for clip, text in by]
    start = torch.zeros(1, 16, 16, 16)
    noise = comfy.sample.prepare_noise(start, sample.seed)
    latents = comfy.sample.sample(
        parts.model, noise, steps, GUIDANCE, "euler", "simple", *texts, start, disable_pbar=True, seed=sample.seed
    )
    return parts.vae.decode(latents).permute(0, 3, 1, 2).clamp(0, 1)


def together(pictures: Sequence[torch.Tensor]) -> Pictures:
    """As what judges look at, with a digest of the exact values of each."""
    exact = torch.cat([picture.float() for picture in pictures])
    digests = [hashlib.sha256(picture.numpy().tobytes()).hexdigest() for picture in exact]
    return Pictures((exact * 255).round().to(torch.uint8), digests)


if __name__ == "__main__":
    main()
