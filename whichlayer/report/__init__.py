"""What evaluate.py says of runs, and how a test file is scored.

table: runs as rows. ensemble, answer: averages, and the row that is recommended. recommendation, report, layout:
the page. plot: pictures. suspects: labels that may be wrong. score: a test file. verify: figures computed again.
"""
