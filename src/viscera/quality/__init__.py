"""What was measured of a result, and what that means for its reader."""
