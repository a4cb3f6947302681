"""Pictures: charts drawn on a canvas, and labels laid over slices of their CT."""
