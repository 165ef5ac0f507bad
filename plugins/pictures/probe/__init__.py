"""A last look at the image by a small classifier of one concept, made from pictures that the guarded model draws."""
