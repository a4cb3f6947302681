"""The networks, and the bundles they are shipped in."""
