"""Names for the parts of a UNet, and specs that give each part a number. Pure Python: no torch."""
