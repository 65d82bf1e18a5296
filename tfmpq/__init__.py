"""tfmpq."""
