"""Files are read with limits and written whole or not at all.

In: paths and bytes.
Out: files, archives and errors that name the fix. ``output`` is exported here.
"""

from frcnn.files.output import (
    file_sha256,
    replacing,
    standard_output,
    temporary_folder,
    writable_file,
    writable_folder,
    write_text,
)

__all__ = [
    "file_sha256",
    "replacing",
    "standard_output",
    "temporary_folder",
    "writable_file",
    "writable_folder",
    "write_text",
]
