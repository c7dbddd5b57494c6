"""One-off studies that a decision or a section of the docs rests on, each beside its figures (NAME.json)."""
