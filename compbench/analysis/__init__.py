"""Analyses of a trained cell: why a strategy did as it did. Training is repeated for them; nothing is compressed."""
