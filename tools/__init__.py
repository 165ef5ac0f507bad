"""What makes the documentation, beside its prose; nothing here is installed with the package."""
