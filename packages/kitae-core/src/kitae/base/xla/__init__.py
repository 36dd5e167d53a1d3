"""Tricks that make programs faster, each with a switch and a plain path.

The plain path gives the same results. `README.md` beside this file says how to switch
a trick off and how to add one; `python -m kitae.base.xla` prints which are used.
"""
