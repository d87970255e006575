"""From features to heads that are trained, scored and kept.

splits: copies, folds, draws of a few labels. options, plan, naming: what is to be trained, and what it is called.
mlp: the report's head. probe, newton, logistic: the linear probe. words, baselines: what needs no encoder.
runs: a run's folder. parallel: small sets side by side.
"""
