"""What runs the networks of a bundle, behind one protocol."""
