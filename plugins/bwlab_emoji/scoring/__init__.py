"""The scorer of the embedded base: its data, its training and how well it recognises what it never saw."""
