"""Language models from a folder or the Hub, those that see among them."""

from __future__ import annotations

from typing import Any

from ...errors import RegistryError
from ...host import LanguageModel


def load_language_model(folder: str, options: dict[str, Any]) -> LanguageModel:
    """Raises RegistryError for files that lack some of the model's weights, such as one that was saved without head."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    sees = hasattr(config, "vision_config")
    kind: Any = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    kind = transformers.AutoModelForImageTextToText if sees else kind
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    options["dtype" if release >= (4, 56) else "torch_dtype"] = options.pop("torch_dtype")
    model, told = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
    if lacking := sorted(told["missing_keys"]):
        raise RegistryError(
            f"{folder}: its files lack {len(lacking)} of the weights of a {type(model).__name__}, {lacking[0]} among "
            "them, which would be random: give a model that was saved with its language-model head"
        )
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
