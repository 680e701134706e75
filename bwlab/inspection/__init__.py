"""What an adapter file is, at a glance: contents per block, how it was trained, and what is wrong with it."""
