"""What leaves a run: a folder that holds a model, and the vectors and semantic IDs of its items."""
