"""Adapters made from adapters and models: converted, merged, merged into a base, extracted."""
