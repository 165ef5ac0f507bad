"""few_shot: the text encoder unlearns what a handful of pictures shows."""
