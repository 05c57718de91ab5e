"""The ledger of the LASER paper (Çakar, Raghu and Zheng, arXiv 2604.17224): its claims in the order of the page."""

from __future__ import annotations

from compbench.ledger.claims import distribution, elsewhere, geometry, method, predictions, table_1, table_2, theory

TITLE = "LASER: Low-Rank Activation SVD for Efficient Recursion (Çakar, Raghu and Zheng, arXiv 2604.17224)"

CHAPTERS = (
    table_1.CHAPTER,
    table_2.CHAPTER,
    method.CHAPTER,
    geometry.CHAPTER,
    distribution.CHAPTER,
    elsewhere.CHAPTER,
    theory.CHAPTER,
    predictions.CHAPTER,
)
