"""Training of the hash layer, or of the whole network."""
