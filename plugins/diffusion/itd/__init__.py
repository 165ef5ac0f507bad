"""ItD, interpret then deactivate: turns off the features that a sparse autoencoder finds of a concept in a prompt."""
