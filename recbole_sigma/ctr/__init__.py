"""Models that are scored by labels, and their metrics."""
