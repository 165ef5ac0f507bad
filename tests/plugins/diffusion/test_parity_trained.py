"""Losses, gradients and masks of methods that train, as their authors' code has them: see data/README.md."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conceptguard_plugins.diffusion.ant.method import ANT
from conceptguard_plugins.diffusion.ant.train import losses, official, smallest
from conceptguard_plugins.diffusion.doco.discriminator import ANCHOR, CONCEPT, taken_for
from conceptguard_plugins.diffusion.doco.method import Doco, adjusted
from conceptguard_plugins.diffusion.salun import SalUn, SalUnMakeSettings, guided_by, relearnt, salient
from conceptguard_plugins.diffusion.sfd import score_identity
from diffusers import DDIMScheduler
from paths import DATA
from safetensors.torch import load_file
from torch import Tensor, nn
from trained import weights

from conceptguard.hosts.denoising.noise_levels import NoiseLevels
from conceptguard.making.loop import without_conflict
from conceptguard.plugins import host_for

close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(DATA / "parity_trained.safetensors")


@pytest.mark.parametrize("alpha", [1.0, 1.2])
def test_sfd(numbers: dict[str, Tensor], alpha: float) -> None:
    """The generator's loss, and its gradient through both networks."""
    levels = NoiseLevels(DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"))
    drawn = numbers["sfd.drawn"].clone().requires_grad_()
    clean: dict[str, list[Tensor]] = {"real": [], "fake": []}
    for row, time in zip(range(3), numbers["sfd.timesteps"].tolist()):
        signal, spread = levels.at(time)
        state = signal * drawn[row : row + 1] + spread * numbers["sfd.noise"][row : row + 1]
        for name, found in clean.items():
            said = F.conv2d(state, numbers[f"sfd.{name}.weight"], numbers[f"sfd.{name}.bias"])
            found.append(levels.parts(state, said, time)[0])
    rows = score_identity(torch.cat(clean["real"]), torch.cat(clean["fake"]), drawn, alpha)
    (gradient,) = torch.autograd.grad(rows.sum(), drawn)
    close(rows.detach(), numbers[f"sfd.loss.{alpha}"])
    close(gradient, numbers[f"sfd.gradient.{alpha}"])


def test_ant(numbers: dict[str, Tensor]) -> None:
    """The loss of one late state and one early one; the paper's differs by a gradient of the empty prompt."""
    said, empty = numbers["ant.said"].clone().requires_grad_(), numbers["ant.empty"].clone().requires_grad_()
    towards, without = numbers["ant.towards"], numbers["ant.without"]
    early = torch.tensor([False, True])
    loss = official(said, empty, towards, without, early, 1.5, 0.5, 0.7)
    gradient, nothing = torch.autograd.grad(loss, [said, empty], allow_unused=True)
    close(loss.detach(), numbers["ant.loss"])
    close(gradient, numbers["ant.gradient"])
    assert nothing is None
    (held,) = torch.autograd.grad(losses(said, empty, towards, without, early, 1.5, 0.5).sum(), empty)
    assert float(held.abs().max()) > 0
    gradients = numbers["ant.weight_gradient"]
    assert torch.equal(smallest(gradients, 0.5), numbers["ant.mask"])
    assert not torch.equal(salient([gradients], 0.5)[0], numbers["ant.mask"])


def test_doco(numbers: dict[str, Tensor]) -> None:
    """Losses of both networks, the step of the layers, and what else the discriminator learns."""
    judge = nn.Linear(2, 1)
    judge.load_state_dict({name: numbers[f"doco.judge.{name}"] for name in ("weight", "bias")})
    real, fake = judge(numbers["doco.anchors"]), judge(numbers["doco.shown"])
    fooled, tells = taken_for(fake, ANCHOR), taken_for(real, ANCHOR) + taken_for(fake, CONCEPT)
    close(fooled.detach(), numbers["doco.fooled"])
    close(tells.detach(), numbers["doco.tells"])
    both = torch.autograd.grad(fooled + tells, list(judge.parameters()))
    for name, gradient in zip(("weight", "bias"), both):
        close(gradient, numbers[f"doco.judge.gradient.{name}"])
    away, held, step = ([numbers[f"doco.{kind}.{i}"] for i in range(4)] for kind in ("away", "held", "step"))
    for found, theirs in zip(adjusted(away, held), step):
        close(found, theirs)
    assert max(float((a - b).abs().max()) for a, b in zip(without_conflict(away, held), step)) > 1e-2


def test_salun(numbers: dict[str, Tensor]) -> None:
    """The loss and its gradient, and which weights may move."""
    own = {name.removeprefix("salun."): one for name, one in numbers.items() if name.startswith("salun.")}
    weight, bias = (own[name].clone().requires_grad_() for name in ("weight", "bias"))
    says = lambda x, condition: F.linear(x, weight, bias) * condition  # noqa: E731
    goal = says(own["forget"], own["anchor"]).detach()
    taken, held = says(own["forget"], own["concept"]), says(own["retain"], own["kept"])
    loss = relearnt(taken, goal, held, own["noise"], 0.3)
    close(loss.detach(), own["loss"])
    for gradient, name in zip(torch.autograd.grad(loss, [weight, bias]), ("weight", "bias")):
        close(gradient, own[f"gradient.{name}"])
    net = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 1))
    for parameter, given in zip(net.parameters(), (own[f"unet.{i}"] for i in range(4))):
        parameter.data.copy_(given)
    masks = {}
    for compat in ("paper", "official"):
        settings = SalUnMakeSettings.model_validate({"guidance": 7.5, "compat": compat})
        value = sum(
            F.mse_loss(guided_by(settings, net(2 * latents), net(latents)), noise)
            for latents, noise in zip(own["mask_latents"], own["mask_noise"])
        )
        masks[compat] = salient(list(torch.autograd.grad(value, list(net.parameters()))), 0.5)
    theirs = [own[f"mask.{i}"] for i in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(masks["official"], theirs))
    assert not all(torch.equal(a, b) for a, b in zip(masks["paper"], theirs))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (ANT, {"steps": 2, "batch": 2, "views": 1, "trajectory_steps": 4}),
        (Doco, {"steps": 3, "warmup": 1, "shots": 2, "batch": 2, "width": 8}),
        (SalUn, {"steps": 2, "shots": 2, "views": 2, "batch": 2}),
    ],
)
def test_as_the_repository_does_is_another_artifact(
    tiny: Any, method: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    beer = {"name": "beer", "prompts": ["beer"], "replacement": "milk"}
    some = {"templates": ["{}"], "preserve": ["dog"], "layers": "x", "progress": False, **options}
    own, theirs = (
        weights(method.make(host_for(tiny), beer, tmp_path / compat, compat=compat, **some))
        for compat in ("paper", "official")
    )
    assert own != theirs
