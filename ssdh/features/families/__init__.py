"""Where networks come from: one module a family, found by its place in this folder."""
