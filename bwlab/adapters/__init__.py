"""Adapters: small trainable deltas on frozen layers, injected by hooks and ejected without a trace."""
