"""Files are read with limits and written whole or not at all.

In: paths and bytes.
Out: files, archives and errors that name the fix. ``output`` is exported here.
"""

from frcnn.files.output import (
    replacing,
    standard_output,
    temporary_folder,
    writable_folder,
    write_text,
)

__all__ = ["replacing", "standard_output", "temporary_folder", "writable_folder", "write_text"]
