"""advunlearn: a text encoder that forgot, trained against an attack."""
