"""Methods that act while a text is said."""
