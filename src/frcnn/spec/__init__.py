"""The typed description of a model and of an artifact, shared by every room.

In: JSON of a manifest, or values.
Out: checked, frozen records. ``model`` is exported here; ``engine`` describes an artifact.
"""

from frcnn.spec.model import (
    BACKGROUND,
    LONGEST_MANIFEST_BYTES,
    MANIFEST_KEY,
    PRECISIONS,
    SCHEMA_VERSION,
    Manifest,
    ModelSpec,
    NonNegative,
    PoolerKind,
    PoolerSpec,
    Positive,
    Precision,
    PrintableText,
    Record,
    RoIHeadsSpec,
    RPNSpec,
    Size,
    TransformSpec,
    full_labels,
    read_versioned,
)

__all__ = [
    "BACKGROUND",
    "LONGEST_MANIFEST_BYTES",
    "MANIFEST_KEY",
    "PRECISIONS",
    "SCHEMA_VERSION",
    "Manifest",
    "ModelSpec",
    "NonNegative",
    "PoolerKind",
    "PoolerSpec",
    "Positive",
    "Precision",
    "PrintableText",
    "RPNSpec",
    "Record",
    "RoIHeadsSpec",
    "Size",
    "TransformSpec",
    "full_labels",
    "read_versioned",
]
