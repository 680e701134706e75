"""The command line: one thin module per command, from options to a configuration to one call."""
