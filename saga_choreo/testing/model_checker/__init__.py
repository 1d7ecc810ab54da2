"""Exhaustive search over every interleaving of one choreography, running the very functions that agents run."""
