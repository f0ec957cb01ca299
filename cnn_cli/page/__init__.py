"""`cnn page`: a network as one HTML file that runs it and explains every value."""
