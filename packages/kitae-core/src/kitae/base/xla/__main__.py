"""Prints which speed tricks are used here: `python -m kitae.base.xla`."""

import sys

from kitae.base.xla.report import as_text, report

sys.stdout.write(as_text(report()))
