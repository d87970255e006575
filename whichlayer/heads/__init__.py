"""From features to heads that are trained, scored and kept.

splits: copies, folds, draws of a few labels. options, plan, naming: what is to be trained, and what it is called.
stacking: the report's heads as one function; the loop that trains them is in train.py. probe, newton, logistic: the
linear probe. words, baselines: what needs no encoder.
runs: a run's folder. parallel: small sets side by side.
"""
