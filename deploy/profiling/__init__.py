"""Latency tables of a network on a device."""
