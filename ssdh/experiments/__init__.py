"""Grids of experiments through DVC, and what they show."""
