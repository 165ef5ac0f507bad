"""What a classifier forgot and kept, beside models that were trained without what it is to forget."""
