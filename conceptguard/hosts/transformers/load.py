"""Language models from a folder or the Hub."""

from __future__ import annotations

from typing import Any

from ...host import LanguageModel


def load_language_model(folder: str, options: dict[str, Any]) -> LanguageModel:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    options["dtype"] = options.pop("torch_dtype")
    model = kind.from_pretrained(folder, use_safetensors=True, **options)
    return LanguageModel(model.eval(), transformers.AutoTokenizer.from_pretrained(folder))
