"""The dialects of adapter files that bwlab reads and writes without a plugin; light to import.

Each module here reads a dialect and its variants, and writes it if bwlab can. To add a dialect:

1. Write a module like `dotted.py`. `recognises(keys, metadata)` returns whether a file with these keys has keys of the
   dialect. Its `KeyParser` splits a key into the module's name and the leaf, and turns that name into the module's path
   in diffusers' names; `bwlab.formats.read.read_keys` does the rest, for files of several dialects too. A dialect
   whose keys mean something only together (`lora_diffusion.py`) gives `read(file)` instead. `write(contents, path,
   dtype)` goes the other way. Import numpy and torch inside functions only.
2. Export them as `READERS = (FormatReader(...),)` and `WRITERS = (FormatWriter(...),)`, which may be empty.
3. Add the module to `DIALECTS` below.

A plugin registers the same two types through the hook `bwlab_register_formats` instead of step 3.
"""

from __future__ import annotations

from bwlab.formats.dialects import comfyui, diffusers, dotted, kohya, lora_diffusion, peft, textual_inversion
from bwlab.formats.types import FormatReader, FormatWriter

DIALECTS = (kohya, diffusers, peft, dotted, comfyui, lora_diffusion, textual_inversion)

READERS: tuple[FormatReader, ...] = tuple(reader for dialect in DIALECTS for reader in dialect.READERS)
WRITERS: tuple[FormatWriter, ...] = tuple(writer for dialect in DIALECTS for writer in dialect.WRITERS)
