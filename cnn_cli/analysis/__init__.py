"""Analyses of a plan, which need no weights: counts, shapes, receptive fields, memory, explanations."""
