"""What evaluate.py says of runs, and how a test file is scored.

rows: runs as the rows of a table. ensemble, answer: averages, and which row is recommended. recommendation, page,
layout: what is printed. pictures: what is drawn. suspects: labels that may be wrong. score: a test file.
"""
