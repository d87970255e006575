"""What every script does the same.

cli: problems, exit codes, messages, arguments. disk: files to trust. windows: titles worked on together, by one
process or several. parallel: tasks side by side, a process each.
"""
