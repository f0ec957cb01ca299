"""What a plan tells without weights: counts, shapes, explanations, pictures of the graph."""
