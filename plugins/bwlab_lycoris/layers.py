"""The layer class of each adapter type."""

from __future__ import annotations

from collections.abc import Mapping

from bwlab_lycoris.dora import DohaLayer, DokrLayer, DoraLayer
from bwlab_lycoris.glora import GloraLayer
from bwlab_lycoris.ia3 import Ia3Layer
from bwlab_lycoris.layer import LycorisLayer
from bwlab_lycoris.loha import LohaLayer
from bwlab_lycoris.lokr import LokrLayer
from bwlab_lycoris.oft import BoftLayer, OftLayer

LAYERS: Mapping[str, type[LycorisLayer]] = {
    layer.type_name: layer
    for layer in (
        LohaLayer,
        LokrLayer,
        DoraLayer,
        DohaLayer,
        DokrLayer,
        OftLayer,
        BoftLayer,
        GloraLayer,
        Ia3Layer,
    )
}
