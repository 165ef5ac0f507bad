"""Red team: attacks of plugins run against a guarded model, drawn and judged by others than those who searched."""
