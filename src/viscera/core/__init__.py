"""What everything else stands on: errors, grids, volumes, settings and files."""
