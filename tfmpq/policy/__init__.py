"""Which bits every layer gets, and what they cost."""
