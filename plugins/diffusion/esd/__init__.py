"""ESD: layers of the denoiser that were trained to turn away from a concept."""
