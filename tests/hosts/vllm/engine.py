"""Run by an environment of vLLM: its engine says prompts, and what it says is printed as JSON.

    python engine.py '{"runner": 2, "guarded": true, "requests": [["On which river", {"max_tokens": 8}]]}'

runner: which of vLLM's two, 2 by Triton's interpreter, which needs no GPU; options: of the engine. An error of the
engine's start, or of a request, is printed in its place.
"""

from __future__ import annotations

import json
import os
import sys
import types
from typing import Any


def second_runner() -> None:
    """It asks for Triton with a driver for this machine: the interpreter runs its kernels as they are, slowly."""
    os.environ.update(TRITON_INTERPRET="1", VLLM_USE_V2_MODEL_RUNNER="1")
    from triton.backends import backends

    driver = type("Driver", (), {"is_active": staticmethod(lambda: True)})
    backends.clear()
    backends["cpu"] = types.SimpleNamespace(driver=driver, compiler=None)  # type: ignore[assignment]


def main(asked: dict[str, Any]) -> Any:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if asked["runner"] == 2:
        second_runner()
    else:
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import BeamSearchParams

    ours = ["conceptguard.hosts.vllm.processor:GuardProcessor"] if asked["guarded"] else []
    options = {"dtype": "float32", "max_model_len": 256, "enforce_eager": True, "seed": 0, "disable_log_stats": False,
               **asked.get("options", {})}  # fmt: skip
    try:
        llm = LLM(model=asked["model"], logits_processors=ours, **options)
    except Exception as error:
        return {"start": f"{type(error).__name__}: {error}"}
    said: list[Any] = []
    for prompts, params in asked["requests"]:
        try:
            if beams := params.pop("beams", 0):
                out = llm.beam_search(prompts, BeamSearchParams(beam_width=beams, max_tokens=8))
                said.append([[sequence.text for sequence in one.sequences] for one in out])
            else:
                many = [SamplingParams(**{**params, "seed": i}) for i in range(len(prompts))]
                out = llm.generate(prompts, many, use_tqdm=False)
                said.append([[(list(one.token_ids), one.text) for one in each.outputs] for each in out])
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    worker = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker  # type: ignore[attr-defined]
    return {
        "said": said, "runner": type(worker.model_runner).__module__,
        "put_off": sum(int(one.value) for one in llm.get_metrics() if one.name == "vllm:num_preemptions"),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
