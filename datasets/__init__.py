"""Images on the device, and the ways to split them into a forget set and a retain set."""
