"""Reference networks, their registry, and the loading of published weights."""
