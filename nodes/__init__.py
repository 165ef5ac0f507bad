"""The ComfyUI node pack. A thin layer: what it does is conceptguard's, through ``conceptguard.hosts.comfyui``.

ComfyUI imports this folder by its path from ``custom_nodes``; ``conceptguard comfyui install`` puts it there.
"""

import os

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():  # ComfyUI's name for it
    """The pack's extension; where conceptguard is not installed, one that says so and nothing else.

    ComfyUI goes on without a pack that raises. Under an operator's policy it must not: the process ends.
    """
    enforced = "CONCEPTGUARD_ENFORCE"
    try:
        try:
            import conceptguard  # noqa: F401
        except ImportError as error:
            if os.environ.get(enforced):
                raise
            from .missing import Missing

            return Missing(error)
        from .extension import ConceptGuard, begin

        begin()
        return ConceptGuard()
    except BaseException as error:
        if not os.environ.get(enforced):
            raise
        raise SystemExit(f"ConceptGuard: the policy in {enforced} is not in force: {error!r}") from error
