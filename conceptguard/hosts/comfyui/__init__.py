"""The ComfyUI host."""
