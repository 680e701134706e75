"""Block specs in the notations of other tools: number lists, dictionaries and prompt tags."""
