"""Which layers of a frozen encoder to classify short texts from, and how good that is.

All of it but the scripts, model.py and data.py, which stand beside this folder.

Read in the order of the imports: common, reading, scores, encoder, heads, report, apply.
"""
