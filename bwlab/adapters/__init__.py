"""Adapters: small trainable deltas on frozen layers, attached by hooks and detached without a trace."""
