"""What runs draw: curves, and a picture for each kind of finding."""
