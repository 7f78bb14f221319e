"""Maturity: which criteria of a published MLOps model this log proves, merely suggests, or does not show at all.

- `azure.json`, `google.json`: the criteria, in our words, with the date of the page they were read from
- `framework`: reads those files
- `evidence`: two passes over the leaves -> tallies of record indices
- `rules`: tallies -> a finding per criterion
- `level`: findings -> levels and the plain document that reports sign
"""

from audit.maturity.evidence import gather
from audit.maturity.framework import Framework, framework, framework_names
from audit.maturity.level import assess

__all__ = ["Framework", "assess", "framework", "framework_names", "gather"]
