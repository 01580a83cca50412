"""Where an image was acquired, as far as that says nothing of who is shown."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pydicom

from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import shown

_MAX_BYTES = 64 * 1024**2
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,23}")
_NOTHING = {"n/a", "na", "nan", "none", "unknown"}
_MAKERS = ("SIEMENS", "PHILIPS", "GE", "CANON", "TOSHIBA", "HITACHI", "UNITED IMAGING", "FUJIFILM", "BRUKER")


def plain_site(text: object) -> str:
    """A site's code as it may be written down; "" for anything that is not a short, plain word."""
    code = str(text).strip()
    return code if _PLAIN.fullmatch(code) and code.lower() not in _NOTHING else ""


def sites_of_table(path: Path) -> dict[str, str]:
    """Participant -> site, from the columns `participant_id` and `site` of a participants.tsv; empty without them.

    Raises:
        DataError: The table cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"expected a table of at most {_MAX_BYTES} bytes, {shown(path)} is larger; is it a table?")
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        rows = list(csv.DictReader(lines, delimiter="\t"))
    except (OSError, csv.Error) as error:
        raise DataError(
            f"expected a table in {shown(path)}, found {type(error).__name__}; mend or remove it"
        ) from error
    return {
        str(row["participant_id"]): plain_site(row["site"]) for row in rows if {"participant_id", "site"} <= set(row)
    }


def scanner_of(header: pydicom.Dataset) -> str:
    """Maker and field strength, for example "SIEMENS 3T".

    The name of the institution or the station, and any maker that is not known, are never taken: in such a field a
    name may stand.
    """
    said = str(header.get("Manufacturer", "") or "").upper()
    maker = next((name for name in _MAKERS if re.match(rf"{name}\b", said)), "")
    strength = header.get("MagneticFieldStrength")
    try:
        tesla = round(2 * float(strength)) / 2 if strength is not None else 0.0
    except (TypeError, ValueError):  # a header may say anything; then it does not say the strength
        tesla = 0.0
    return f"{maker} {tesla:g}T" if maker and 0 < tesla <= 12 else maker


def shared(sites: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Sites that several subjects have, from pairs (site, subject): what only one has would say who it is."""
    subjects: defaultdict[str, set[str]] = defaultdict(set)
    for site, subject in sites:
        subjects[site].add(subject)
    return frozenset(site for site, members in subjects.items() if site and len(members) > 1)
