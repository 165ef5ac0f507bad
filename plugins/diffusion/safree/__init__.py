"""SAFREE: takes the concept out of a prompt's embeddings, where and as long as the prompt needs it. No training."""
