#!/usr/bin/env bash
# diffusers 0.42.1 (torch 2.13.0, transformers 5.23.0): of a batch, `ip_adapter_image_embeds` are not a prompt's own.
#
# The argument takes, for each adapter, a tensor [batch, pictures, width], twice as many rows under guidance. One would
# expect that row i is what prompt i sees. But the pipeline repeats the tensor by the number of prompts, as it must for
# a single row; attention then folds the rows that are too many into more tokens, and every prompt sees every picture.
# Nothing complains, and a batch of one is right.
#
# Seen, of two prompts with a picture each, how far from what each is with its own picture alone:
#   row 0 0.520, row 1 0.791; and 0.000 from what one prompt gives with both pictures
# Whoever draws a batch from pictures has to ask for one at a time.
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' 2> /dev/null
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

WIDTH, TOKENS = 16, 4
torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, cross_attention_dim=WIDTH,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    attention_head_dim=4,
)
parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
pipe = StableDiffusionPipeline(unet=unet, scheduler=DDIMScheduler(), requires_safety_checker=False, **parts)
pipe.vae_scale_factor = 8
pipe.set_progress_bar_config(disable=True)
read = [name.removesuffix(".processor") for name in unet.attn_processors]
pipe.load_ip_adapter({
    "image_proj": {
        "proj.weight": torch.randn(TOKENS * WIDTH, WIDTH), "proj.bias": torch.randn(TOKENS * WIDTH),
        "norm.weight": torch.ones(WIDTH), "norm.bias": torch.zeros(WIDTH),
    },
    "ip_adapter": {
        f"{i}.to_{which}_ip.weight": torch.randn(unet.get_submodule(name).to_q.out_features, WIDTH)
        for i, name in enumerate(read) if name.endswith("attn2") for which in "kv"
    },
}, subfolder="", weight_name="", image_encoder_folder=None)
text, noise, pictures = torch.randn(1, 5, WIDTH), torch.randn(1, 4, 8, 8), torch.randn(2, 1, WIDTH)


def drawn(prompts, seen):
    """seen: [rows, pictures, width]"""
    return pipe(
        prompt_embeds=text.expand(prompts, -1, -1), negative_prompt_embeds=torch.zeros(prompts, 5, WIDTH),
        ip_adapter_image_embeds=[torch.cat([torch.zeros_like(seen), seen])], latents=noise.expand(prompts, -1, -1, -1),
        num_inference_steps=2, output_type="latent",
    ).images


def far(one, other):
    return float((one - other).norm() / other.norm())


batch = drawn(2, pictures)
own = [far(batch[i], drawn(1, pictures[i : i + 1])[0]) for i in range(2)]
both = far(batch[0], drawn(1, pictures.transpose(0, 1))[0])
print(f"row 0 {own[0]:.3f}, row 1 {own[1]:.3f}; and {both:.3f} from what one prompt gives with both pictures")
assert min(own) > 0.1 and both < 1e-4 and far(batch[0], batch[1]) < 1e-4
PYTHON
