"""The dialects of adapter files that bwlab reads and writes without a plugin; light to import.

Each module here reads a dialect, with its relatives, and writes it where bwlab can. To add a dialect:

1. Write a module like `kohya.py`. `recognises(keys, metadata)` returns whether a file with these keys is of the
   dialect. `read(file)` gives each key a `ParsedKey(key, path, leaf)`, with the path of the module in diffusers' names
   and the leaf in kohya's or LyCORIS', and returns `assemble(file, name, parsed, ...)` of `bwlab.formats.contents`.
   `write(contents, path, dtype)` goes the other way. Import numpy and torch inside functions only.
2. Export them as `READERS = (FormatReader(...),)` and `WRITERS = (FormatWriter(...),)`, which may be empty.
3. Add the module to `DIALECTS` below.

A plugin registers the same two types through the hook `bwlab_register_formats` instead of step 3.
"""

from __future__ import annotations

from bwlab.formats.dialects import diffusers, kohya, lora_diffusion, peft, textual_inversion
from bwlab.formats.types import FormatReader, FormatWriter

DIALECTS = (kohya, diffusers, peft, lora_diffusion, textual_inversion)

READERS: tuple[FormatReader, ...] = tuple(reader for dialect in DIALECTS for reader in dialect.READERS)
WRITERS: tuple[FormatWriter, ...] = tuple(writer for dialect in DIALECTS for writer in dialect.WRITERS)
