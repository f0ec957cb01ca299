"""`cnn report`: runs as a self-contained HTML document. One section per file, all from the facts in `run_facts.py`."""
