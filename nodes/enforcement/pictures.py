"""Pictures are looked at where they are born: where a VAE decodes, whatever node calls it, and where a node has one
from anywhere else. A flagged picture is closed there and then, so that no later node can disguise it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from conceptguard.policy import Policy
from conceptguard.receipt import Receipt

from ..image_nodes import look
from ..policy_node import KEEP
from .taint import Birth, Held, Visit, birth_of, here, is_picture, mark


def look_at_every_decode(policy: Policy) -> None:
    """From now on, for every VAE."""
    from comfy.sd import VAE

    plain = VAE.decode
    VAE.decode = _looking(VAE.decode, plain, policy)
    VAE.decode_tiled = _looking(VAE.decode_tiled, plain, policy)


def _looking(decode: Callable[..., Any], plain: Callable[..., Any], policy: Policy) -> Callable[..., Any]:
    """decode: a method of VAE; plain: the one for latents as they were sampled"""

    def decode_and_look(vae: Any, samples: Any, *args: Any, **kwargs: Any) -> Any:
        pixels = decode(vae, samples, *args, **kwargs)
        if not is_picture(pixels):
            return pixels  # a sound or a shape: it may not leave, if it is made of latents that a picture was drawn in
        pixels = pixels.contiguous() if pixels.ndim == 5 else pixels  # frames one behind the other stay this picture
        visit = here()
        sampled = [birth for birth in visit.births if birth.latents is not None]
        same = [birth for birth in sampled if birth.gave(samples) and _reader(birth, vae) is vae]
        others = [birth for birth in sampled if birth not in same]
        for birth in others:  # turned, inverted, mixed or drawn over: they are looked at as they were, too
            if birth.closed is None:
                shown, closed = see(visit, plain(_reader(birth, vae), birth.latents), policy)
                birth.judge(closed, _look_at(shown))
        picture, closed = _born(visit, pixels, policy)
        for birth in same:
            birth.judge(closed, _look_at(picture))
        if any(birth.closed for birth in others):
            picture = mark(torch.zeros_like(picture), _known(picture))
        visit.decoded.append(picture)
        return picture

    return decode_and_look


def _reader(birth: Birth, vae: Any) -> Any:
    """The VAE that tells what latents show: their model's own, where there is one, else the one that is there."""
    if birth.vae is None and vae.latent_channels != birth.channels:
        raise Held(
            "these latents are of another model than the VAE: decode them with the VAE of the model that drew them"
        )
    return vae if birth.vae is None else birth.vae


def see(visit: Visit, picture: Tensor, policy: Policy) -> tuple[Tensor, bool]:
    """A picture after a look and the policy's action, and whether anything of it was closed. Raises Refused."""
    flat = picture.reshape(-1, *picture.shape[-3:])
    colours = flat[..., :3] if flat.shape[-1] >= 3 else flat.expand(*flat.shape[:-1], 3)
    seen = look(colours, policy, KEEP, visit.node)
    birth = visit.bear(True, seen.receipt)
    if seen.refusal is not None:
        raise seen.refusal
    assert seen.pixels is not None
    if not seen.flagged or policy.on_violation == "flag":
        return mark(picture, birth), False
    shown = seen.pixels if flat.shape[-1] >= 3 else seen.pixels[..., :1]
    if flat.shape[-1] == 4:
        shown = torch.cat((shown, torch.ones_like(shown[..., :1])), -1)
    return mark(shown.reshape(picture.shape).contiguous(), birth), True


def look_at_outputs(visit: Visit, outputs: list[list[Any]], policy: Policy) -> None:
    """Pictures that a node has from anywhere but its inputs, and those that it made of latents: each is looked at here.

    outputs: the values of each output; a closed picture takes the place of a flagged one
    """
    for values in outputs:
        for i, value in enumerate(values):
            if not is_picture(value) or birth_of(value) is not None:
                continue
            ours = next((own for own in visit.decoded if _shows(value, own)), None)
            if ours is not None:
                mark(value, _known(ours))
            elif (visit.births and not visit.decoded) or any(b.closed is None and not b.leaves for b in visit.births):
                continue  # made of what its node was given: it is no more than that
            elif any(birth.closed for birth in visit.births):
                values[i] = mark(torch.zeros_like(value), _known(visit.decoded[-1]))
            else:
                values[i], _ = _born(visit, value, policy)


def _born(visit: Visit, picture: Tensor, policy: Policy) -> tuple[Tensor, bool]:
    """The same of a picture that this node itself has had: what else it makes of a flagged one may not leave."""
    picture, closed = see(visit, picture, policy)
    if closed:
        visit.bear(False, _look_at(picture)).closed = True
    return picture, closed


def look_at_shown(visit: Visit, value: Any, policy: Policy) -> Any:
    """What an output node is given, after a look at what it is as a picture by now. Raises Refused."""
    if hasattr(value, "get_components"):  # a video, which is shown as it was made
        frames = value.get_components().images
        if birth_of(frames) is None and see(visit, frames, policy)[1]:
            raise Held("a flagged picture is in this video: make it of pictures of this server's own")
        return value
    return see(visit, value, policy)[0] if is_picture(value) and birth_of(value) is None else value


def _shows(value: Tensor, decoded: Tensor) -> bool:
    """Whether a picture is all of a decoded one, its frames one behind the other perhaps."""
    return value.numel() == decoded.numel() and value.data_ptr() == decoded.data_ptr() and value.is_contiguous()


def _look_at(picture: Tensor) -> Receipt:
    return _known(picture).receipts[0]


def _known(picture: Tensor) -> Birth:
    birth = birth_of(picture)
    assert birth is not None
    return birth
