"""How good predictions are, how uncertain that is, and how rows compare; numpy alone.

metrics: macro-F1, log loss, calibration error. calibration: how probabilities of one run or several become one.
decision: which category is named. figures: what is kept of a run. thresholds: when to accept an answer.
comparison: intervals, significance, non-inferiority.
"""
