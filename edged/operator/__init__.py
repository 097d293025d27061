"""What the fleet's operator runs at a desk: `edgectl`."""
