"""Holds a strategy to its contract: what ``check_estimator`` is for scikit-learn.

In a test of one's own::

    from compbench.testing import check_compressor

    def test_half():
        check_compressor(Half())

With :func:`parametrize_with_checks` each property is a test of its own; ``compbench check NAME`` does the same from the
command line. The properties are those of the guide to writing a strategy; each is one small function, whose name and
description are what is reported.
"""

from compbench.testing.checkup import PROPERTIES, Check, Checkup, Result, check_compressor, parametrize_with_checks
from compbench.testing.trial import Property

__all__ = [
    "PROPERTIES",
    "Check",
    "Checkup",
    "Property",
    "Result",
    "check_compressor",
    "parametrize_with_checks",
]
