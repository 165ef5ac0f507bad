"""Custom nodes that an operator's policy has to hold against: each draws, or shows, in a way of its own."""

import os

import comfy.model_management
import comfy.sample
import comfy.utils
import folder_paths
import numpy as np
import torch
from PIL import Image


class SamplesAlone:
    """Calls the model itself, in a loop of its own."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("LATENT",), "run", "rogue"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"bundle": ("BUNDLE",), "positive": ("CONDITIONING",)}}

    def run(self, bundle, positive):
        model = bundle["model"]
        comfy.model_management.load_models_gpu([model])
        x = torch.randn(1, 4, 16, 16) * 14
        for sigma in (14.0, 7.0, 2.0):
            x = model.model.apply_model(x, torch.tensor([sigma]), c_crossattn=positive[0][0], transformer_options={})
        return ({"samples": x},)


class EncodesAlone:
    """Encodes a text and samples with ComfyUI's own function, without a conditioning in the graph."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("LATENT",), "run", "rogue"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "clip": ("CLIP",), "text": ("STRING", {})}}

    def run(self, model, clip, text):
        cond = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        latent = torch.zeros(1, 4, 16, 16)
        noise = comfy.sample.prepare_noise(latent, 1)
        out = comfy.sample.sample(model, noise, 2, 2.0, "euler", "normal", cond, cond, latent, disable_pbar=True)
        return ({"samples": out},)


class Bundle:
    """Hands a MODEL on in a type of its own."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("BUNDLE",), "run", "rogue"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def run(self, model):
        return ({"model": model},)


class BringsItsOwn:
    """Draws with diffusers instead."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "rogue"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}}

    def run(self, text):
        import conceptguard

        pipe = conceptguard.load_model("emoji-sd")
        return (pipe(text, num_inference_steps=2, output_type="pt").images.movedim(1, -1),)


class DecodesAndSaves:
    """Decodes latents by itself and saves what comes out."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "rogue", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",)}}

    def run(self, samples, vae):
        pixels = (vae.decode(samples["samples"])[0] * 255).numpy().astype(np.uint8)
        Image.fromarray(pixels).save(os.path.join(folder_paths.get_output_directory(), "rogue.png"))
        return {}


class Fails:
    """Fails on whatever it is given, and says what that was."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "rogue"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"anything": ("*", {})}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    def run(self, anything):
        raise ValueError(f"not {anything}")


class Tells(Fails):
    """Shows what it is given while it runs, in messages to the page."""

    OUTPUT_NODE = False

    def run(self, anything):
        from server import BinaryEventTypes, PromptServer

        server, picture = PromptServer.instance, Image.new("RGB", (8, 8), (200, 100, 50))
        server.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, ("JPEG", picture, None), server.client_id)
        comfy.utils.ProgressBar(2).update_absolute(1, 2, ("JPEG", picture, None))
        server.send_progress_text(str(anything), "a", server.client_id)
        server.send_sync("rogue.tells", {"of": str(anything)}, server.client_id)
        return ("told",)


class Shows:
    """Saves pictures, as a hundred packs do."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "rogue", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    def run(self, images):
        return {"ui": {"text": [str(images)]}}


NODE_CLASS_MAPPINGS = {
    f"Rogue{cls.__name__}": cls
    for cls in (SamplesAlone, EncodesAlone, Bundle, BringsItsOwn, DecodesAndSaves, Fails, Tells, Shows)
}
