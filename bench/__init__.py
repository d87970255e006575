"""Every figure of speed and memory: `python -m bench`. Nothing of the product imports it."""
