"""Tables of texts in CSV, JSON or Parquet, packed or not.

tables: any file. records: JSON and Parquet. unpack: packed files and encodings.
"""
