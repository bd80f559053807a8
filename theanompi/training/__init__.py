"""One rank of a run: the model, the compiled functions, the loop, and what all ranks do together."""
