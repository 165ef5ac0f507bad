"""What methods for models that see pictures share."""
