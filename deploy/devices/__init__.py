"""Computers, Raspberry Pis and phones that a file is run on."""
