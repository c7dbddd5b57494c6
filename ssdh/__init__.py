"""Semantic structure-based unsupervised deep hashing (SSDH, IJCAI 2018): images to compact binary codes."""
