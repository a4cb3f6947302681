"""Training of both networks: cases, augmentation, losses and one loop for both stages."""
