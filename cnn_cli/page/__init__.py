"""`cnn page`: a network as one HTML file in which it runs, with everything that explains it."""
