"""From image files to feature vectors: decoding, preprocessing, the frozen backbone."""
