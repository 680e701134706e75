"""How well generated pictures keep an identity, a style and the text."""
