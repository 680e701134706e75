"""The demo: an identity and a style, learned apart, put together on all blocks and on the upper blocks only."""
