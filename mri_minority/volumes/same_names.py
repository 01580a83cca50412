"""Images of one name in several folders: each is a series of its own, and nobody is both learnt from and held out."""

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from mri_minority.volumes.atomic import shown
from mri_minority.volumes.discover import Found
from mri_minority.volumes.file_names import of_whom, stem_of, storable

_LAYOUT = {"images", "imagesTr", "anat"}
_VISIT = re.compile(r"baseline|follow-?up\d*", re.IGNORECASE)
_ANY_IMAGE = re.compile(r"(image|img|scan|volume|vol|brain|head|mri?|anat|orig|[_.\-\s])*", re.IGNORECASE)


def told_apart(found: list[Found]) -> list[Found]:
    """Give images of one name in several folders series of their own, and those that name nobody their folder's name.

    `siteA/001.nii.gz` and `siteB/001.nii.gz` are two series, `siteA_001` and `siteB_001`, of one subject, `001`: they
    may be one person, and if they are two, the worst is that both are learnt from or both held out. But
    `case1/T1.nii.gz` and `case2/T1.nii.gz`, whose names say nothing of a person, are of `case1` and `case2`.

    Args:
        found: What was discovered. DICOM files, which are known by their headers, have no names and stay as they are.

    Returns:
        The same images in the same order. Where no name is there twice, nothing changes. Prefixes are the ends of
        paths, as short as they can be: they do not depend on where all of the folders lie. Images that have one name
        even then have a `problem`.
    """
    named = [item for item in found if item.case_name]
    of_nobody = {_folder(item) for item in named if _names_nobody(item)}
    folders: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for item in named:
        folders[item.series].add(_folder(item))
    result = []
    for item in found:
        nobody = bool(item.case_name) and _names_nobody(item) and len(of_nobody) > 1
        others = of_nobody if nobody else folders[item.series] if item.case_name else set()
        if others - {_folder(item)}:
            prefix = _prefix(_folder(item), others - {_folder(item)})
            item = replace(
                item,
                series=f"{prefix}_{item.series}",
                case_name=f"{prefix}_{item.case_name}",
                subject=_owner(item) if nobody else item.subject,
                shares_name=not nobody,
            )
        result.append(item)
    return _still_alike(result)


def _folder(item: Found) -> tuple[str, ...]:
    return item.image.parent.absolute().parts


def _prefix(folder: tuple[str, ...], others: set[tuple[str, ...]]) -> str:
    """The shortest end of a path that no other one has, without the names that every data set has."""
    for n in range(len(folder) - 1, 0, -1):
        if all(other[-len(folder[n:]) :] != folder[n:] for other in others):
            said = [part for part in folder[n:] if part not in _LAYOUT]
            return storable("_".join(said or folder[n:]))
    return storable("_".join(folder[1:]))


def _owner(item: Found) -> str:
    """The nearest folder that is not called after a layout, a sequence or a visit."""
    for part in reversed(_folder(item)[1:]):
        if part not in _LAYOUT and not _VISIT.fullmatch(part) and of_whom(part):
            return storable(of_whom(part))
    return item.subject


def _names_nobody(item: Found) -> bool:
    """Whether a file's name is nothing but words for sequences, visits, and any image."""
    return _ANY_IMAGE.fullmatch(of_whom(stem_of(item.image))) is not None


def _still_alike(found: list[Found]) -> list[Found]:
    """Refuse images whose series are one name even so."""
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for item in found:
        if item.case_name and not item.problem:
            files[item.series].append(item.image)
    return [
        replace(item, problem=f"expected a name for each image, found one for {_two(files[item.series])}; rename one")
        if item.case_name and not item.problem and len(files[item.series]) > 1
        else item
        for item in found
    ]


def _two(files: list[Path]) -> str:
    return " and ".join(shown(file) for file in files[:2])
