"""The strategies that ship, one readable file each.

Every file has the same order: what the strategy keeps and where that comes from, its hyper-parameters, its codec (the
state at one site), its payload (what one call keeps), and the hook by which compbench finds it. What the low-rank ones
share is in ``_subspace``; ``_streams`` gives random numbers to single calls.
"""
