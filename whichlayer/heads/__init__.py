"""From features to heads that are trained, scored and kept.

splits: copies, folds, draws of a few labels. options, plan: what is to be trained.
stacking: the report's heads as one. probe, newton, logistic: the linear probe. words: what needs no encoder.
runs: a run's folder.
"""
