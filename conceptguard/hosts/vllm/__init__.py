"""vLLM: language models served by its engine, guarded by a logits processor of it."""
