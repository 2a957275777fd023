"""Measurements: one file a peer, same input, same check."""
