"""Scenarios: a story told as a folder, with the world, what happens in it, and what must be true of its history.

`setting` makes the world, `script` says what happens, `expectation` what must be true, `folder` reads and writes all
of them, `play` runs them. No expectation is ever taken from a run.
"""
