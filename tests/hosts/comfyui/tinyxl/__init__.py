"""For the server of the tests: a tiny SDXL with random weights, in the place of a checkpoint."""

import os
import sys

sys.path += [os.environ["CONCEPTGUARD_TESTS"], os.path.join(os.environ["CONCEPTGUARD_TESTS"], "hosts", "comfyui")]


class TinyXL:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL", "CLIP", "VAE"), "run", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        import torch
        from tiny import clip_tokenizer
        from twins import sdxl_parts, sdxl_pipe

        from conceptguard.hosts.comfyui.load import load_parts

        with torch.inference_mode(False):
            parts = sdxl_parts(sdxl_pipe(clip_tokenizer()))
        return parts.model, parts.clip, load_parts("emoji-sd").vae


NODE_CLASS_MAPPINGS = {"TinyXL": TinyXL}
