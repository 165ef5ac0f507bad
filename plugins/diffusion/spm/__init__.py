"""SPM: rank-1 membranes beside linear and convolution layers, opened by the prompt."""
