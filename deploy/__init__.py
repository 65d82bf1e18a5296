"""LiteRT export, proof, and measurement."""
