"""Model families: what differs between kinds of base models."""
