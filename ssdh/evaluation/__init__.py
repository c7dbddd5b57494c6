"""What the codes are worth: metrics, and baselines on the same features."""
