"""What hosts of all models that denoise share, whatever the framework."""
