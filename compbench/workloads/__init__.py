"""Workloads: what is trained under each strategy; a model, data, a loss and metrics that know nothing of compression.

``base`` has the contract. ``trm_maze`` is the workload that ships: ``trm``'s Tiny Recursive Model on ``mazes``' mazes.
"""
