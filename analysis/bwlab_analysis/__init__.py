"""Looking inside adapters: what each block learned, and where two adapters meet."""
