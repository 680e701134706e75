"""The block mixer: a page on which sliders set the scale of each block of each adapter, beside the image."""
