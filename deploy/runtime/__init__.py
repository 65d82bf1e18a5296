"""LiteRT on this machine: the interpreter, what it is known to do, and the child process it runs in."""
