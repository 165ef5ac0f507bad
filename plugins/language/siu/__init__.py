"""SIU: one picture teaches a model another name for what it shows."""
