"""Data sets: one module each, the registry, splits and verified downloads. Nothing else knows a data set by name."""
