"""Settings: pydantic models from TOML files, command-line options and presets."""
