"""Language models from a folder or the Hub, those that see among them."""

from __future__ import annotations

from typing import Any

from ...host import LanguageModel


def load_language_model(folder: str, options: dict[str, Any]) -> LanguageModel:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    sees = hasattr(config, "vision_config")
    kind: Any = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    kind = transformers.AutoModelForImageTextToText if sees else kind
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    options["dtype" if release >= (4, 56) else "torch_dtype"] = options.pop("torch_dtype")
    model = kind.from_pretrained(folder, use_safetensors=True, **options)
    reader = transformers.AutoProcessor.from_pretrained(folder) if sees else _tokenizer(folder)
    return LanguageModel(model.eval(), reader)


def _tokenizer(folder: str) -> Any:
    """What transformers 5 writes names a class that 4 has under another name."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(folder)
    except ValueError as error:
        if "TokenizersBackend" not in str(error):
            raise
        return transformers.PreTrainedTokenizerFast.from_pretrained(folder)
