"""Pictures over HTTP: one diffusers model, a policy for each request, what every guard did in the answer's header.

    python examples/server/server.py --policies examples/server/policies

    curl -s localhost:8000/pictures -d '{"prompt": "a dog, noto style", "policy": "school"}' \\
         -H 'content-type: application/json' -D - -o dog.png
"""

from __future__ import annotations

import argparse
import io
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import conceptguard

HEADER = "conceptguard-receipt"
LONGEST = 6000  # of a header: servers and proxies in between take 8 kB for all of them


class Asked(BaseModel):
    """What a request holds."""

    prompt: str = Field(min_length=1, max_length=1000)
    policy: str
    negative_prompt: str = Field("", max_length=1000)
    seed: int = Field(0, ge=0, lt=2**63)
    steps: int = Field(25, ge=1, le=50)
    guidance: float = Field(3.5, ge=1, le=20)


def application(pipe: Any, policies: Mapping[str, Any], attached: str, waiting: int = 32) -> FastAPI:
    """A server of one pipeline.

    policies: by the names that requests give; attached: which one acts where a line of this file forgot to choose: the
    strictest; waiting: how many requests may, others are told to come back
    """
    if attached not in policies:
        raise SystemExit(f"no policy '{attached}' to attach: there are {', '.join(policies) or 'none'}")
    guard = conceptguard.attach(pipe, policies[attached])
    for policy in policies.values():  # loaded now: a policy that cannot be is no surprise in a request
        with guard.using(policy):
            pass
    places = threading.Semaphore(waiting)

    @contextmanager
    def place() -> Iterator[None]:
        if not places.acquire(blocking=False):
            raise HTTPException(503, f"{waiting} requests are waiting: come back", {"retry-after": "5"})
        try:
            yield
        finally:
            places.release()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        yield
        guard.detach()

    app = FastAPI(title="Guarded pictures", lifespan=lifespan)

    @app.post("/pictures", response_class=Response)
    def picture(asked: Asked) -> Response:  # not async: it runs in a thread, and generations take turns there
        policy = policies.get(asked.policy)
        if policy is None:
            raise HTTPException(404, f"no policy '{asked.policy[:100]}': there are {', '.join(policies)}")
        with place(), guard.using(policy) as chosen:
            try:
                image = pipe(
                    asked.prompt,
                    negative_prompt=asked.negative_prompt or None,
                    num_inference_steps=asked.steps,
                    guidance_scale=asked.guidance,
                    generator=torch.Generator("cpu").manual_seed(asked.seed),
                ).images[0]
            except conceptguard.Refused as refused:
                return JSONResponse({"detail": str(refused)}, 403, _told(chosen.receipt))
            receipt = chosen.receipt
        content = io.BytesIO()
        image.save(content, format="PNG")
        return Response(content.getvalue(), media_type="image/png", headers=_told(receipt))

    @app.get("/policies")
    def names() -> list[str]:
        return list(policies)

    @app.exception_handler(conceptguard.ConceptGuardError)
    def failed(request: Request, error: conceptguard.ConceptGuardError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 500)  # and no picture

    return app


def _told(receipt: Any) -> dict[str, str]:
    """The receipt as a header, which is ASCII and short. Whoever asks knows the prompt, so it may hold that."""
    whole, without = (json.dumps(receipt.summary(prompts), separators=(",", ":")) for prompts in (True, False))
    short = json.dumps({"policy": receipt.policy, "acted": len(receipt.opened), "steps": receipt.steps})
    return {HEADER: next((text for text in (whole, without) if len(text) <= LONGEST), short)}


def policies_of(folder: Path) -> dict[str, Path]:
    """A folder's policies by the names of their files."""
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-sd", help="an embedded model, or a diffusers folder")
    parser.add_argument("--policies", type=Path, default=Path(__file__).parent / "policies", help="a folder")
    parser.add_argument("--attached", default="school", help="the policy that acts where none was chosen")
    parser.add_argument("--device", default=None, help="default: the first GPU, else the CPU")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--waiting", type=int, default=32, help="requests that may wait")
    parser.add_argument("--traces", action="store_true", help="a span for each generation, by OpenTelemetry")
    given = parser.parse_args()
    if given.traces:
        conceptguard.instrument()
    pipe = conceptguard.load_model(given.model)
    pipe.to(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    pipe.set_progress_bar_config(disable=True)
    app = application(pipe, policies_of(given.policies), given.attached, given.waiting)
    uvicorn.run(app, host=given.host, port=given.port, access_log=False)


if __name__ == "__main__":
    main()
