"""Measures bytes, time and fidelity, each in a pass of its own, since instruments disturb one another."""
