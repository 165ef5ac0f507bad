"""What hosts, sessions and methods know of each other, and no more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    import torch
    from torch import Tensor, nn

    from .generation.account import Account
    from .generation.conditioning import Branch, Encoded, Prompts
    from .generation.decoding import Sentence
    from .generation.denoising import Conditions, Moment
    from .policy import Guard, Policy
    from .receipt import Act, Receipt
    from .runtime.banks import Banks
    from .runtime.gates import GateBank
    from .runtime.lowrank import LayerIndex
    from .runtime.patched import Patch


class PictureEncoder(Protocol):
    """What reads pictures and texts into one space, such as CLIP."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Directions of length 1, [n, width]."""

    def pictures(self, pixels: Tensor) -> Tensor:
        """The same of pictures [n, 3, h, w] in [0, 1]."""

    def states(self, pixels: Tensor, before: int) -> Tensor:
        """What the picture tower holds so many layers before its end, the mean over places, [n, width of the tower]."""


class TextEncoder(Protocol):
    """One text encoder of what draws.

    number: which of the prompts it reads; tokenizer: its own, transformers'
    begins: whether a begin token stands before the text's own, as in CLIP; T5 has none
    tokens, width: which part of an embedding [rows, tokens, width] is its states; None where it gives none
    pooled: which part of a pooled embedding [rows, width] is of it; None where it gives none
    window: how many tokens of a text it reads; hidden: how wide its own states are
    """

    name: str
    number: int
    module: nn.Module
    tokenizer: Any
    begins: bool
    tokens: slice
    width: slice | None
    pooled: slice | None
    window: int
    hidden: int

    @property
    def depth(self) -> int:
        """How many of its layers the denoiser hears."""

    @property
    def device(self) -> torch.device:
        """Where it is asked."""

    @property
    def heard(self) -> int:
        """The same, where a pooled vector counts as well."""

    def sees(self, positions: int) -> bool:
        """A call pads its texts to so many positions; whether the encoder then says anything else than before."""

    def ids(self, texts: Sequence[str], whole: bool = False) -> list[list[int]]:
        """Token ids without begin, end and padding, cut at the window unless ``whole``."""

    def words(self, ids: Sequence[int]) -> list[str]:
        """Each token as a reader knows it."""

    def positions(self, text_positions: Sequence[int]) -> list[int]:
        """Where the n-th tokens of a text stand among its states."""

    def lexicon(self) -> dict[str, int]:
        """Words of lower-case letters that are one token each, with it."""

    def length(self, ids: Sequence[int]) -> int:
        """How many positions a text takes with its begin and end tokens."""

    def encode(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor | None, Tensor | None]:
        """Token ids -> (states [rows, longest + special tokens, width], pooled)."""

    def through(
        self, ids: Sequence[Sequence[int]], layer: int, change: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The same with other states behind one of its layers, padded to the whole window."""

    def vectors(self, ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Texts as one vector each, in every space in which the denoiser hears of them: list of [rows, width]."""

    def differentiable(
        self, ids: Sequence[Sequence[int]], prefix: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """As ``encode`` for CLIP, padded to the whole window and with gradients: towards terms beside its layers, and
        towards ``prefix`` [k, hidden], input vectors that stand before every text."""

    def reading(self, text: str, vectors: Tensor) -> AbstractContextManager[None]:
        """Meanwhile it reads input vectors [n, hidden] wherever it is given this text, with gradients."""

    @property
    def vocabulary(self) -> Tensor:
        """The input vectors of all its tokens, [tokens, hidden]."""

    def frozen(self) -> AbstractContextManager[None]:
        """No gradients for the encoder's own weights and no dropout meanwhile."""


class Looks(NamedTuple):
    """What places of a picture look at, means over heads and layers, float32.

    between: at each other, [rows, places, places]; at_text: at the text, [rows, places, tokens]
    """

    between: Tensor
    at_text: Tensor


class Denoiser(Protocol):
    """latents [rows, channels, h, w], timesteps [rows], conditions -> the raw model output, as ``latents``.

    name: of the component, under which its layers stand
    shape: (channels, height, width) of the latents the model was made for
    picture_size: (height, width) of the pictures that these are of
    noise_levels: of its schedule, and what its output means there
    """

    name: str
    shape: tuple[int, int, int]

    @property
    def noise_levels(self) -> NoiseLevels: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __call__(self, latents: Tensor, timesteps: Tensor, conditions: Encoded) -> Tensor: ...

    @property
    def picture_size(self) -> tuple[int, int]: ...

    def latents(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, height, width] in [0, 1] as latents."""

    def pictures(self, latents: Tensor) -> Tensor:
        """The other way round."""

    def looks(self, latents: Tensor, timesteps: Tensor, conditions: Encoded) -> Looks:
        """What places look at in one call. Raises SessionError where there is no attention that can be read."""

    def frozen(self) -> AbstractContextManager[None]:
        """No gradients for the model's own weights and no dropout meanwhile. Of a large model no activations are kept:
        they are computed again for gradients, so whatever acted beside its layers has to be as it was by then."""

    def reading_pictures(self, adapter: str) -> AbstractContextManager[None]:
        """Meanwhile it reads the pictures of its conditions, by an image adapter's file in IP-Adapter's form. Raises
        PolicyError where there is none, or it is of another model."""

    def picture_prompts(self, adapter: str, encoder: str | None, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, height, width] in [0, 1] as conditions hold them, [n, tokens, width]. encoder: a folder of
        CLIP, or the name of a shipped one; None: what lies with the adapter. Raises PolicyError as above."""

    def timestep(self, share: float) -> int:
        """The timestep of a share of the schedule, from 0, hardly any noise, to 1, nothing else."""

    def timesteps(self, steps: int) -> list[int]:
        """DDIM's timesteps, noisiest first."""

    def ddim_step(self, output: Tensor, latents: Tensor, timestep: int, following: int) -> Tensor:
        """One deterministic DDIM step to another timestep; -1 is the end."""

    def trajectories(self, noise: Tensor, conditions: Encoded, nothing: Encoded, steps: int, guidance: float) -> Tensor:
        """Every state of a guided DDIM run, [steps, rows, channels, h, w]."""


class Speaker(Protocol):
    """A language model as trainings ask it: ids [rows, tokens], padded on the right, their mask, 0 where padding is,
    and the pixels of pictures that stand in them -> scores of the next tokens [rows, tokens, vocabulary], float32, with
    gradients towards terms beside layers.
    """

    def __call__(self, ids: Tensor, mask: Tensor, pixels: Tensor | None = None) -> Tensor: ...

    def states(self, ids: Tensor, mask: Tensor, block: str) -> Tensor:
        """What a block gives, [rows, tokens, width], float32, with gradients. Raises BaseMismatch where there is no
        module of that name."""

    def lens(self, ids: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        """What the head reads in every layer's states, embeddings first, at some tokens: [layers, n, vocabulary],
        float32. at: [rows, tokens], true at these. Raises BaseMismatch for a model without a head or its norm."""

    def frozen(self) -> AbstractContextManager[None]:
        """No gradients for the model's own weights and no dropout meanwhile."""

    @property
    def device(self) -> torch.device: ...


class Sight(Protocol):
    """How a language model sees.

    image: the token of its prompts that stands for a picture, or for a part of one
    """

    image: int

    @property
    def projector(self) -> str:
        """The module that gives the text model what it sees, by its name."""

    @property
    def decoder(self) -> str:
        """The text model, by its name."""

    def read(self, prompts: Sequence[str], pictures: Tensor | None) -> dict[str, Tensor]:
        """What the model is given for prompts, and pictures [n, 3, h, w] in [0, 1] for the places in them, in order."""

    def pixels(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, h, w] in [0, 1] as the model is given them."""

    def states(self, pictures: Tensor, layer: str) -> Tensor:
        """What a layer gives for pictures, [n, tokens, width], float32."""


class NoiseLevels(Protocol):
    """latents = signal · clean + noise · ε, in the units of the denoiser's input.

    prediction: "epsilon", "v_prediction", "sample" or, signal and noise being shares of a path, "flow_prediction"
    """

    prediction: str

    def at(self, timestep: Tensor | float) -> tuple[float, float]:
        """(signal, noise)."""

    def parts(self, latents: Tensor, prediction: Tensor, timestep: Tensor | float) -> tuple[Tensor, Tensor]:
        """(clean, ε) of what a denoiser was given and what it predicted, float32."""


class ActiveGuard(Protocol):
    """One guard at work: its entry in the policy, and in the receipt of the running generation."""

    guard: Guard
    act: Act


class DrawingSession(Protocol):
    """What a host calls on the session of a policy that it draws under, in the order of one generation."""

    policy: Policy
    banks: Banks
    layers: LayerIndex
    host: Any
    attached: bool

    @property
    def receipt(self) -> Receipt:
        """Of the last generation of this thread or task."""

    def pushed(self) -> list[int]:
        """Rows on which a guard acts in the denoiser itself, and not by what it is given."""

    @property
    def steps(self) -> int:
        """How many calls of the denoiser the guards of the running generation have seen."""

    @property
    def methods(self) -> Sequence[ActiveGuard]:
        """The guards in the order of the policy."""

    @property
    def guidance_scale(self) -> float | None:
        """Of the running call; None outside of one."""

    def guide(self, scale: float) -> None:
        """Guidance of the running call goes on with this scale."""

    @property
    def methods_with_terms(self) -> Sequence[ActiveGuard]:
        """The guards that have a gate, in the order of a gate bank's columns."""

    def has(self, hook: str) -> bool:
        """Whether any active guard implements a hook."""

    def run(self, generate: Callable[[], Any], guidance_scale: float | None = None) -> Any:
        """One whole generation under this session."""

    def probe(self, predict: Callable[[], Any], step: int = 0) -> Any:
        """One call of the denoiser from without, as in a step of a generation, with gradients."""

    def demand_attached(self) -> None:
        """Raises SessionError after the policy was detached."""

    def visit(self) -> bool:
        """A denoiser call that belongs to no generation. Gives whether the call before was somebody else's."""

    def close(self) -> None:
        """Close every gate."""

    def patched(self, prefix: str, patches: Mapping[str, Callable[[], Patch]]) -> None:
        """What others add to weights of one component, by the names of layers; {} where they do not any more."""

    def encode_prompt(self, prompts: Prompts) -> None:
        """Let every guard see every condition of the call."""

    def gate_bank(self, prefix: str, encode: Callable[[list[str]], Any]) -> GateBank:
        """The gates of all guards as one component's encoder sees them."""

    def read_with(self, prefix: str, gates: Tensor) -> None:
        """A text encoder reads with its own terms so far open, [rows, guards]: for the receipt."""

    def open_gates(
        self,
        prefix: str,
        embeds: Tensor,
        ids: Sequence[Sequence[int] | None],
        texts: Sequence[str | None],
        branches: Sequence[Branch | None],
    ) -> None:
        """New conditions reached a component: set the gates of every row."""

    def before_denoise(
        self, timestep: Any, conditions: Callable[[float | None, Moment], Conditions]
    ) -> Conditions | None:
        """A denoiser call begins. Gives what guards made of its conditions, None where no guard reads them."""

    def after_denoise(
        self,
        timestep: Any,
        latents: Tensor,
        prediction: Tensor,
        denoise: Callable[[Encoded, Sequence[int]], Tensor] | None = None,
        separate: bool = False,
        resting: Callable[[str], bool] = ...,
    ) -> Tensor:
        """A denoiser call ended; guards may change the prediction."""

    def steered(self) -> dict[int, str]:
        """What each flagged image is to be drawn away from, asked by a host that does so."""

    def check_image(
        self, pixels: Tensor, prompts: list[str | None], again: Callable[[int], Tensor] | None = None
    ) -> Tensor:
        """Decoded images after every guard's look and the policy's action."""


class SpeakingSession(Protocol):
    """What a host calls on the session of a policy that it generates text under.

    takes_back: whether any guard may take back what was said
    revocable: whether what a row says now can be taken back
    regrets: rows of this run that are to be, by whom and from which token on
    begin: how many tokens of the rows are prompt
    """

    policy: Policy
    regrets: dict[int, tuple[Any, int]]
    revocable: bool

    @property
    def receipt(self) -> Receipt: ...

    @property
    def account(self) -> Account:
        """What guards were asked about in this generation."""

    def whole(self, texts: Tensor) -> np.ndarray:
        """Texts as ``generate`` has them, with what the model had been given before: [rows, tokens]."""

    def prove(self, texts: Tensor, fill: Collection[int], last: bool = True) -> None:
        """Raises GuardError unless every guard was asked about each token of these rows, and left it open."""

    @property
    def takes_back(self) -> bool: ...

    @property
    def begin(self) -> int: ...

    def has(self, hook: str) -> bool:
        """Whether any active guard implements a hook."""

    def run(self, generate: Callable[[], Any], keep: bool = False) -> Any:
        """One whole generation under this session."""

    def within(self, ids: Tensor | None, mask: Tensor | None, filled: bool) -> AbstractContextManager[None]:
        """With what guards do inside of the model, from the prompts that it is asked."""

    def process(self, ids: Tensor, scores: Tensor) -> Tensor:
        """The scores of the next tokens, [rows, vocabulary], changed in place. ids: [rows, tokens]."""

    def takes_nothing_back(self, beside: Sequence[str]) -> None:
        """Say in the receipt of guards that would take words back that they do not, beside these options."""

    def resumed(self, row: int, column: int, ban: set[int], by: Any) -> AbstractContextManager[None]:
        """One row goes on by itself from a column, where it may not say what is in ``ban``."""

    def row(self, row: int) -> int:
        """Which row of the generation a row of this run is."""

    def prompt_of(self, row: int) -> int:
        """Which prompt a row answers."""

    def sentence(self, text: str, before: str, row: int) -> Sentence:
        """A finished sentence as every guard has read it."""
