"""The claims of the LASER paper, a module for each part of it."""
