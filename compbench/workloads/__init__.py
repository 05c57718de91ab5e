"""Workloads: what is trained under each strategy; a model, data, a loss and metrics that know nothing of compression.

``base`` has the contract, ``abilities`` what a workload may do beyond it. ``trm_maze`` is the LASER paper's profile:
``trm``'s Tiny Recursive Model on ``mazes``' mazes. All others are a task (``task``) on an architecture
(``architecture``); ``shipped`` registers them. ``own`` makes a workload of a user's class.
"""
