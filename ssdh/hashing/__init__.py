"""The hash network, its codes, and retrieval by Hamming distance."""
