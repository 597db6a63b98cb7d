"""Known vulnerabilities of all that is locked: what was asked, whom, and what is known.

``python -m maintenance.audit requirements.lock tools.lock``, in an environment with pip-audit; ``make audit`` runs it.
Arguments after ``--`` are pip-audit's: ``-- --vulnerability-service osv``. A release with published vulnerabilities is
asked for, too: an answer that does not know it proves nothing of the others. The exit status is 1 where anything is
vulnerable, could not be asked for, or that release is not known.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_KNOWN: Final = "jinja2==2.4.1"
"""Published as vulnerable many times (PYSEC-2019-217, for one)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit the locks that are named."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    locks, options = [Path(name) for name in given[:cut]], given[cut + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "known.txt"
        known.write_text(f"{_KNOWN}\n", encoding="utf-8")
        is_known = any(package["vulns"] for package in _audit(known, ["--no-deps", *options]))
    bad = 0
    for lock in locks:
        packages = _audit(lock, ["--require-hashes", *options])
        found = [package for package in packages if package["vulns"]]
        bad += len(found)
        print(f"{lock}: {len(packages)} packages asked for, {len(found)} with known vulnerabilities")
        for package in found:
            for entry in package["vulns"]:
                fixed = ", ".join(entry["fix_versions"]) or "no release"
                print(f"  {package['name']} {package['version']}: {entry['id']}, fixed in {fixed}")
    whom = options[options.index("--vulnerability-service") + 1] if "--vulnerability-service" in options else "pypi"
    print(
        f"asked: {whom}, {time.strftime('%Y-%m-%d')}; {_KNOWN} is {'' if is_known else 'NOT '}known there as vulnerable"
    )
    return 0 if is_known and not bad else 1


def _audit(requirements: Path, options: Sequence[str]) -> list[Any]:
    """Return pip-audit's entry of each package; raise SystemExit where one could not be asked for."""
    asked = ["--strict", "--disable-pip", "--progress-spinner=off", "--format=json", "--requirement", str(requirements)]
    command = [sys.executable, "-m", "pip_audit", *asked, *options]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not ended.stdout:  # also 1 where something is vulnerable
        raise SystemExit(f"{requirements}: not audited")
    packages: list[Any] = json.loads(ended.stdout)["dependencies"]
    return packages


if __name__ == "__main__":
    sys.exit(main())
