"""The text that an adapter reads, from its file alone."""

from __future__ import annotations

from bwlab_analysis.weights.adapter_weights import text_widths

READS_TEXT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def test_text_widths_are_read_from_cross_attention_only() -> None:
    assert text_widths({READS_TEXT: (7, 768), READS_TEXT.replace("attn2", "attn1"): (7, 5)}) == {768}
