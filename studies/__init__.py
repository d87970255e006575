"""The study over data sets, and published figures beside ours. Nothing of the product imports it."""
