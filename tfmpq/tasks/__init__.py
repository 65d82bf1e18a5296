"""A float network and what it is for: data, objective, score."""
