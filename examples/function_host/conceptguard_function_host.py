"""A host for whatever draws by a plain function, ``prompt, seed -> picture``: a service, a toy, another framework."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from conceptguard import Encoded, Host, Prompts, SessionError

Draw = Callable[[str, int], np.ndarray]


class Painter:
    """A function ``(prompt, seed) -> uint8 [height, width, 3]`` as something that a policy can be attached to."""

    def __init__(self, draw: Draw):
        self.draw = draw
        self.host: FunctionHost | None = None

    def __call__(self, prompt: str, seed: int = 0) -> np.ndarray:
        return self.draw(prompt, seed) if self.host is None else self.host.paint(prompt, seed)


class FunctionHost(Host):
    """Guards read and rewrite the prompt, and look at the picture. Nothing reaches into the function."""

    about = "a Painter around a function"

    @classmethod
    def takes(cls, target):
        return isinstance(target, Painter)

    def __init__(self, target: Painter):
        super().__init__(target)
        if target.host is not None:
            raise SessionError("this Painter is already guarded: detach that session first")
        self.name = f"function {target.draw.__name__}"

    def attach(self, session) -> None:
        self.session, self.target.host = session, self

    def detach(self) -> None:
        self.session = self.target.host = None

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The function has no embeddings: none of no width. Guards that read texts need no more."""
        return Encoded(torch.zeros(len(texts), 0, 0), [[] for _ in texts])

    def paint(self, prompt: str, seed: int) -> np.ndarray:
        """One guarded picture."""
        return self.session.run(lambda: self._paint(prompt, seed))

    def _paint(self, prompt: str, seed: int) -> np.ndarray:
        seen = self.encode([prompt])
        prompts = Prompts([prompt], seen.ids, seen.embeds, None, ["conditional"], self.encode)
        self.session.encode_prompt(prompts)  # a guard may rewrite the text, or refuse it
        texts = prompts.texts
        self.session.open_gates(self.denoiser_name, prompts.embeds, prompts.ids, texts, prompts.branches)

        def pixels(attempt: int) -> torch.Tensor:
            picture = torch.from_numpy(self.target.draw(texts[0], seed + attempt))
            return picture.permute(2, 0, 1)[None].float() / 255

        checked = self.session.check_image(pixels(0), texts, again=pixels)
        return (checked[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
