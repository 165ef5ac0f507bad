"""The ComfyUI node pack. A thin layer: what it does is conceptguard's, through ``conceptguard.hosts.comfyui``.

ComfyUI imports this folder by its path from ``custom_nodes``; ``conceptguard comfyui install`` puts it there.
"""

import os

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():  # ComfyUI's name for it
    """The pack's extension; where conceptguard is not installed, one that says so and nothing else."""
    try:
        import conceptguard  # noqa: F401
    except ImportError as error:
        if os.environ.get("CONCEPTGUARD_ENFORCE"):
            raise SystemExit(f"CONCEPTGUARD_ENFORCE is set, and conceptguard is not installed: {error}") from error
        from .missing import Missing

        return Missing(error)
    from .extension import ConceptGuard

    return ConceptGuard()
