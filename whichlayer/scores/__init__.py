"""How good predictions are, how uncertain that is, and how rows compare; numpy alone.

metrics: macro-F1, log loss, calibration error. calibration: how probabilities of one run or several become one.
decision: which category is named, and when to accept it. figures: what is kept of a run.
comparison: intervals, significance, non-inferiority.
"""
