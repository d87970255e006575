"""Runs that are ready to predict, alone or combined, and whole files predicted.

chosen: which runs, and how they go together. classifier: titles to probabilities. frozen: an encoder with its heads.
output: how predictions are written. bulk: whole files.
"""
