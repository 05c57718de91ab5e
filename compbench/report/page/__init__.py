"""The report of a suite's results: one HTML page that needs nothing but itself, for reading, citing and printing.

The page is made from the store alone and holds no time and no folder of its own: the same store gives the same bytes.
Whatever comes from plugins, suites and records is text on it, and its content security policy lets no other script run
than its own, and nothing be fetched.
"""

from __future__ import annotations

from compbench.report.page.extent import LARGEST_BYTES, Extent
from compbench.report.page.writing import Written, make_page, write_page

__all__ = ["LARGEST_BYTES", "Extent", "Written", "make_page", "write_page"]
