"""What evaluate.py says of runs, and how a test file is scored.

baselines: what words alone reach. rows: runs as rows. answer: combinations, and the row that is recommended.
recommendation, page, layout: what is printed, and the model card. pictures: what is drawn.
suspects: labels that may be wrong. score: a test file.
"""
