"""From features to pseudo-labels: distances, the two half Gaussians, thresholds."""
