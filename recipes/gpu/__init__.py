"""Training on a GPU that is there for minutes: everything in one small folder, then one command after the other."""
