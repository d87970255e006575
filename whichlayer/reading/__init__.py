"""Tables of texts in CSV, JSON or Parquet, packed or not, as rows of str.

tables: any file, what is asked of it, and its rows. formats: how CSV, JSON and Parquet become rows.
"""
