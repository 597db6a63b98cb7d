"""A ``*.frcnn`` file: its manifest, and its parts on demand.

A serialized engine is code: its author can run anything on the system that loads it. The hashes in the manifest detect
damage, not who made the file; ``check_trusted`` refuses every file that the caller does not name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec

from frcnn.errors import ArtifactError, UsageError
from frcnn.files.archive import REBUILD, Archive, open_archive
from frcnn.spec.engine import PRECISION_PART, EngineManifest, EngineStep, PrecisionRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArtifact:
    """An artifact made by ``frcnn build``."""

    path: Path
    manifest: EngineManifest
    archive: Archive

    def read_part(self, name: str) -> bytes:
        """Return a part's bytes, checked by their SHA-256."""
        part = self.manifest.parts.get(name)
        if part is None:
            raise ArtifactError(f"{self.path}: the engine artifact has no part {name}", hint=REBUILD)
        return self.archive.read(name, part)

    def check_parts(self) -> None:
        """Check the SHA-256 of every part, holding little in memory."""
        for name, part in self.manifest.parts.items():
            for _ in self.archive.stream(name, part):
                pass

    def check_trusted(self, trusted_hashes: Collection[str] | None) -> None:
        """Refuse the file unless its SHA-256, 64 hexadecimal digits, is among those the caller trusts; None trusts all.

        The hash covers the whole file, so the manifest, and through it every engine and kernel, whose own hashes are
        checked when they are read.
        """
        if trusted_hashes is None:
            return
        hint = "give the first word of what sha256sum prints for the .frcnn file, in a list"
        if isinstance(trusted_hashes, str):
            raise UsageError("trusted_hashes: expected a collection of SHA-256, got one string", hint=hint)
        for digest in trusted_hashes:
            if not isinstance(digest, str) or re.fullmatch("[0-9a-fA-F]{64}", digest) is None:
                raise UsageError(f"trusted_hashes: expected 64 hexadecimal digits, got {digest!r}", hint=hint)
        found = self.archive.sha256()
        if found not in {digest.lower() for digest in trusted_hashes}:
            engines = ", ".join(step.part for step in self.manifest.steps if isinstance(step, EngineStep))
            raise ArtifactError(
                f"{self.path}: the file's SHA-256 {found} is not among trusted_hashes, and its engines ({engines}) "
                "are code",
                hint="where you trust who built it, add that hash",
            )

    def read_precision(self) -> tuple[PrecisionRecord, ...]:
        """Return the precision of every layer; empty if the artifact does not list it."""
        if PRECISION_PART not in self.manifest.parts:
            return ()
        try:
            return msgspec.json.decode(self.read_part(PRECISION_PART), type=tuple[PrecisionRecord, ...])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ArtifactError(f"{self.path}: the part {PRECISION_PART} is damaged: {error}", hint=REBUILD) from error


def open_engine_artifact(path: str | os.PathLike[str]) -> EngineArtifact:
    """Read the manifest of an artifact, whose parts must be those that it lists; they are not read yet."""
    archive = open_archive(path)
    manifest = EngineManifest.from_json(archive.manifest_bytes, source=os.fspath(path))
    archive.check_listed(manifest.parts)
    return EngineArtifact(path=archive.path, manifest=manifest, archive=archive)
