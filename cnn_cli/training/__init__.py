"""Training and evaluation, and the files that they write."""
