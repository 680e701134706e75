"""Fusion methods: how several adapters act together, per layer, step and sample."""
