"""How long a file takes, as a whole and operator by operator."""
