"""What every maker of artifacts shares."""
