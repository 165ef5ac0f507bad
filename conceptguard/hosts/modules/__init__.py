"""Any torch module that takes tensors and gives tensors: a classifier, a generator, a net over a graph."""
