"""The files of a run; all of this package that `kitae.runs` imports."""
