"""Methods that look at what was drawn."""
