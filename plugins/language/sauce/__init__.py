"""SAUCE: features of a sparse autoencoder on what a model sees are silenced."""
