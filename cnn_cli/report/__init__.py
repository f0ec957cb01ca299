"""`cnn report`: runs as a self-contained HTML document. One file per section, all from the facts in `run_facts.py`."""
