"""The ComfyUI node pack."""
