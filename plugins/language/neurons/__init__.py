"""Single neurons of feed-forward blocks: what they say, what a model owes to them, and taking them away."""
