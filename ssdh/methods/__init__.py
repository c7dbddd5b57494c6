"""Methods: NAME.yaml with the values of a recipe, NAME.py with its loss."""
