"""Measurements of what Bedplate promises, each beside a reference in the same run. `python -m bench` runs them."""
