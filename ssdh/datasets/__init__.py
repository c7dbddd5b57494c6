"""Data sets: one module each, the registry, verification. Nothing else knows a data set by name."""
