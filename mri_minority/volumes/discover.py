"""Find images and their labels in the layouts that labs have, without configuration."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import shown, write_text_atomic
from mri_minority.volumes.datalist import Datalist, read_datalist
from mri_minority.volumes.dicom import DicomSeries, find_series, has_dicom
from mri_minority.volumes.sites import sites_of_table

_NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_PAIRS = (("images", "labels"), ("imagesTr", "labelsTr"))
_LAYOUTS = (
    "a flat folder, images/ + labels/, nnU-Net (imagesTr/ + labelsTr/), a Decathlon dataset.json, BIDS "
    "(sub-*/[ses-*/]anat/) or a folder of DICOM files"
)

# Names are read as tokens: "IXI013-HH-1212_T1" is IXI013, HH, 1212, T1. A date or a session is one token.
_END = r"(?=[_.\-\s]|$)"
_DATE = rf"(?:19|20)\d\d-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01]){_END}"
_SESSION = rf"(?:ses|session|visit|tp|timepoint|run)-?\d+{_END}"
_TOKEN = re.compile(rf"{_DATE}|{_SESSION}|[^_.\-\s]+", re.IGNORECASE)
_VISIT = re.compile(rf"{_DATE}|{_SESSION}", re.IGNORECASE)
_SEQUENCE = re.compile(r"T1(w|c|n|ce|gd)?|T2(w|f)?|FLAIR|PDw?|MP2?RAGE|SPGR|SWI|DWI|ADC|MRA", re.IGNORECASE)
_LABEL = re.compile(r"dseg|a?seg|segmentation|mask|labels?|lesions?|DLMUSE|gt", re.IGNORECASE)
_NEVER = re.compile(r"probseg|defacemask", re.IGNORECASE)
_CHANNEL = re.compile(r"_(\d{4})$")
_KINDS = {
    **dict.fromkeys(("T1W", "T1N"), "T1"),
    **dict.fromkeys(("T1C", "T1GD"), "T1CE"),
    **{"T2W": "T2", "T2F": "FLAIR", "PDW": "PD"},
}


@dataclass(frozen=True)
class Found:
    """One image that was discovered.

    Args:
        image: The image file.
        label: Its label map, or None.
        subject: Key by which data are split: scans and sessions of one person share it.
        series: The image's name without ending.
        problem: Why it cannot be used, or None.
        sequence: Kind of image ("T1", "T1CE", "T2", "FLAIR", ...) as name or list say, or None.
        channel: Which channel of its case it is, where the layout numbers them; of a 4-D file, which volume.
        dicom: The series, where it is not a NIfTI file; `image` is then its first file.
        site: Where it was acquired, as far as the source says; "" otherwise.
        case: What images of one head and one examination share, wherever they were found.
        case_name: Name of the case without ending, or "" if the image's will do.
        channels: The images that are the channels of this head; empty if it is a single image.
        shares_name: Whether files in other folders have its name too, which is then taken for one person's.
    """

    image: Path
    label: Path | None
    subject: str
    series: str
    problem: str | None = None
    sequence: str | None = field(default=None, compare=False)
    channel: int | None = field(default=None, compare=False)
    dicom: DicomSeries | None = field(default=None, compare=False, repr=False)
    site: str = field(default="", compare=False)
    case: str = field(default="", compare=False)
    case_name: str = field(default="", compare=False)
    channels: tuple["Found", ...] = field(default=(), compare=False)
    shares_name: bool = field(default=False, compare=False)

    @property
    def images(self) -> tuple["Found", ...]:
        """The image channels of the head."""
        return self.channels or (self,)


def discover(sources: list[Path]) -> list[Found]:
    """List the images in the given files and folders, in a stable order, each once.

    Understands a single file, a flat folder, `images/` + `labels/`, nnU-Net raw (`imagesTr/` + `labelsTr/`), lists in a
    `dataset.json` (MONAI, Decathlon), BIDS, and folders of DICOM files with whatever is below them.
    A label map belongs to the image whose name shares the longest beginning with it, up to a separator, if what
    follows in one of the names is only a sequence or label word (`_T1`, `_seg`) and in the other holds no number. That
    holds for files named one by one too. DICOM folders are read as one, however many there are.

    Args:
        sources: NIfTI files, lists and folders. Hidden files are left out.

    Returns:
        The images. `label` is None where none was found; `problem` says why an image cannot be used: several label
        maps fit, two files have one name, a link leads nowhere, a name is not text.

    Raises:
        DataError: A source is missing, cannot be read, is another kind of file, or holds no image.
    """
    found: list[Found] = []
    alone: defaultdict[Path, list[Path]] = defaultdict(list)
    of_dicom: list[Path] = []
    for source in sources:
        try:
            if source.is_dir():
                found += _in_folder(source, of_dicom)
            elif source.suffix.lower() == ".json" and source.exists():
                found += _listed(read_datalist(source))
            else:
                alone[source.parent].append(_checked_file(source))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DataError(f"expected a readable folder, {shown(source)} is not: {reason}; check the path") from error
    for folder, files in alone.items():
        found += _one_by_one(folder, files)
    found += _of_dicom(of_dicom)
    once: dict[tuple[Path, str], Found] = {}
    for item in found:
        once.setdefault((item.image.parent.resolve() / item.image.name, item.series), item)
    return list(once.values())


def kind_of(word: str) -> str:
    """One spelling per sequence: "T1w", "t1" -> "T1"; "t2f" -> "FLAIR"."""
    return _KINDS.get(word.upper(), word.upper())


def stem_of(path: Path) -> str:
    """File name without .nii or .nii.gz."""
    return _NIFTI.sub("", path.name) if _NIFTI.search(path.name) else path.stem


def subject_of(path: Path, channels: bool = False) -> str:
    """Key of the subject: the BIDS `sub-` entity, else the name up to its sequence, label, session or date.

    Args:
        path: The image file; only its name is read.
        channels: Whether the name ends in an nnU-Net channel (`_0000`).
    """
    stem = _CHANNEL.sub("", stem_of(path)) if channels else stem_of(path)
    entity = re.match(r"sub-[A-Za-z0-9+]+", stem)
    if entity:
        return entity.group(0)
    tokens = list(_TOKEN.finditer(stem))
    words = [t.group(0) for t in tokens]
    for k in range(1, len(words)):
        # "PD" is a sequence at the end of a name, but elsewhere may stand for a group of patients.
        cuts = _is_suffix(words[k]) and (words[k].upper() != "PD" or k + 1 == len(words))
        if (cuts or _VISIT.fullmatch(words[k])) and all(_says_nobody(w) for w in words[k + 1 :]):
            return stem[: tokens[k - 1].end()]
    return stem


def without_sequence(stem: str) -> str:
    """A name without its last sequence word: what the images of one examination share."""
    words = [t for t in _TOKEN.finditer(stem) if _SEQUENCE.fullmatch(t.group(0))]
    if not words or words[-1].start() == 0:
        return stem
    return stem[: words[-1].start() - 1] + stem[words[-1].end() :]


def of_whom(name: str) -> str:
    """A name without its words for sequences, visits and dates, "" if it has no others: "siteA_T1" -> "siteA"."""
    words = [t.group(0) for t in _TOKEN.finditer(name)]
    kept = [word for word in words if not (_SEQUENCE.fullmatch(word) or _VISIT.fullmatch(word))]
    return name if len(kept) == len(words) else "_".join(kept)


def storable(name: str) -> str:
    """A name that can be stored: bytes that are no UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def write_quarantine(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write which files were refused, and why.

    Args:
        path: The file, of tab separated values: `file`, `reason`.
        rows: File and reason. Tabs, line ends and what is not printable are escaped as in Python, `\\` as `\\\\`.

    Raises:
        DataError: The file cannot be written.
    """
    lines = ["file\treason", *("\t".join(_escape(cell) for cell in row) for row in rows)]
    write_text_atomic(path, "".join(line + "\n" for line in lines))


def _checked_file(source: Path) -> Path:
    """A source that is no folder and no list."""
    if not source.exists() and not source.is_symlink():
        raise DataError(f"expected a NIfTI file or a folder of them, {shown(source)} does not exist; check the path")
    if not _NIFTI.search(source.name):
        raise DataError(f"expected a .nii or .nii.gz file or a folder of them, found {shown(source)}; convert it first")
    return source


def _one_by_one(folder: Path, files: list[Path]) -> list[Found]:
    """Files of one folder that were named one by one: label maps lie where they would if the folder had been given."""
    images = [path for path in files if not _is_label(path)]
    if not images:
        raise DataError(
            f"expected an image, {shown(files[0])} is called as label maps are; give the image, or the folder"
        )
    numbered = folder.name == "imagesTr"
    beside = next((folder.parent / maps for name, maps in _PAIRS if name == folder.resolve().name), folder)
    maps = [path for path in _niftis(beside) if beside != folder or _is_label(path)] if beside.is_dir() else []
    return _pair(images, maps, numbered and _ends_in_channels(images, maps, True))


def _in_folder(folder: Path, of_dicom: list[Path]) -> list[Found]:
    """Images in a folder; one of DICOM files is put off, as patients are told apart among all of them together."""
    listed = read_datalist(folder / "dataset.json") if (folder / "dataset.json").is_file() else None
    if listed is not None and listed.lists:
        return _listed(listed)
    found = _by_name(folder, listed.channels if listed else {})
    if not found and not has_dicom(folder):
        raise DataError(f"expected NIfTI or DICOM images in {shown(folder)}, found none; give {_LAYOUTS}")
    if not found:
        of_dicom.append(folder)
    sites = sites_of_table(folder / "participants.tsv")
    return [replace(item, site=sites.get(item.subject, "")) for item in found]


def _by_name(folder: Path, channel_names: dict[int, str]) -> list[Found]:
    """Images in the layouts in which names alone say what belongs together."""
    for images, labels in _PAIRS:
        if (folder / images).is_dir():
            files = _niftis(folder / images)
            maps = _niftis(folder / labels) if (folder / labels).is_dir() else []
            return _pair(files, maps, _ends_in_channels(files, maps, images == "imagesTr"), channel_names)
    scans = [p for pattern in ("sub-*/anat", "sub-*/ses-*/anat") for p in _below(folder, pattern)]
    if scans:
        maps = [p for p in [*scans, *_below(folder, "derivatives/**/anat")] if _is_label(p)]
        maps = [p for p in maps if stem_of(p).endswith("_dseg")] or maps
        return _pair(sorted(p for p in scans if not _is_label(p)), sorted(set(maps)), False)
    files = _niftis(folder)
    maps = [p for p in files if _is_label(p)]
    images_here = [p for p in files if not _is_label(p)]
    return _pair(images_here, maps, _ends_in_channels(images_here, maps, False), channel_names)


def _listed(listed: Datalist) -> list[Found]:
    """Images of a list, each with the label map that the list gives it."""
    found = []
    names = Counter(image.resolve() for entry in listed.entries for image in entry.images)
    for case, (images, label, site) in enumerate(listed.entries):
        for number, image in enumerate(images):
            wrong = [p for p in (image, label) if p is not None and not _NIFTI.search(p.name)]
            maps = [label] if label is not None else []
            problem = _problem(image, maps, False) if not wrong else f"expected NIfTI, listed is {shown(wrong[0].name)}"
            if names[image.resolve()] > 1:
                problem = (
                    f"expected each image once in the list, {shown(image.name)} is there {names[image.resolve()]} times"
                )
            item = Found(image, label, storable(subject_of(image)), storable(stem_of(image)), problem, _sequence(image))
            item = replace(item, site=site, case=f"{image.parent.resolve()}/{case}", case_name=item.series)
            channels = listed.channels
            if len(images) > 1:  # one file per channel
                found.append(replace(item, channel=number, sequence=_named(channels, number) or item.sequence))
            elif len(channels) > 1:  # one 4-D file with all of them
                stem = item.series
                found.extend(
                    replace(item, series=f"{stem}:{n}", channel=n, sequence=kind_of(name))
                    for n, name in channels.items()
                )
            else:
                found.append(replace(item, sequence=_named(channels, 0) or item.sequence))
    return found


def _of_dicom(folders: list[Path]) -> list[Found]:
    """Series of DICOM files, and the files that look like DICOM but cannot be read.

    Raises:
        DataError: There are files, but none is an image.
    """
    series, broken = find_series(*folders)
    if folders and not series and not broken:
        raise DataError(f"expected images among the DICOM files in {shown(folders[0])}, found none; give {_LAYOUTS}")
    found = [
        Found(s.frames[0].file, None, s.subject, s.series, s.problem, s.sequence, None, s, s.scanner, s.study)
        for s in series
    ]
    # Each is a case of its own: joined into one head, all but the first would be lost without a word.
    return found + [
        Found(path, None, "unreadable", storable(str(path)), problem, case=storable(str(path)))
        for path, problem in broken
    ]


def _named(channels: dict[int, str], number: int) -> str | None:
    """The sequence that a channel's name says, or None: a name such as "MRI" says none."""
    name = channels.get(number, "")
    return kind_of(name) if _SEQUENCE.fullmatch(name) else None


def _sequence(path: Path) -> str | None:
    """The last word of a name that is a sequence."""
    words = [t.group(0) for t in _TOKEN.finditer(stem_of(path))]
    return next((kind_of(word) for word in reversed(words) if _SEQUENCE.fullmatch(word)), None)


def _below(folder: Path, pattern: str) -> Iterator[Path]:
    """NIfTI files of a BIDS dataset in the folders that match."""
    for anat in sorted(folder.glob(pattern)):
        if anat.is_dir():
            yield from (p for p in _niftis(anat) if p.name.startswith("sub-") and not _NEVER.fullmatch(_last(p)))


def _niftis(folder: Path) -> list[Path]:
    """NIfTI files, links that lead nowhere included: they are refused by name, not left out in silence."""
    names = (p for p in folder.iterdir() if _NIFTI.search(p.name) and not p.name.startswith("."))
    return sorted(p for p in names if p.is_file() or (p.is_symlink() and not p.exists()))


def _pair(
    images: list[Path], labels: list[Path], channels: bool, channel_names: dict[int, str] | None = None
) -> list[Found]:
    """Give every image its label map. Takes time in proportion to the number of files."""
    stems = [_CHANNEL.sub("", stem_of(p)) if channels else stem_of(p) for p in images]
    beginnings: defaultdict[str, list[tuple[int, bool]]] = defaultdict(list)
    for number, stem in enumerate(stems):
        for beginning, plain in _beginnings(stem):
            beginnings[beginning].append((number, plain))
    fits: defaultdict[int, list[tuple[int, Path]]] = defaultdict(list)
    for label in labels:
        for beginning, plain in _beginnings(stem_of(label)):
            numbers = [number for number, image_plain in beginnings.get(beginning, ()) if plain or image_plain]
            for number in numbers:
                fits[number].append((len(beginning), label))
            if numbers:
                break
    names = Counter(stem_of(p) for p in images)
    result = []
    for number, image in enumerate(images):
        longest = max((length for length, _ in fits[number]), default=0)
        matches = [label for length, label in fits[number] if length == longest]
        problem = _problem(image, matches, names[stem_of(image)] > 1)
        label_of_it = matches[0] if len(matches) == 1 else None
        end = _CHANNEL.search(stem_of(image)) if channels else None
        channel = int(end.group(1)) if end else None
        sequence = (_named(channel_names or {}, channel) if channel is not None else None) or _sequence(image)
        subject, series = storable(subject_of(image, channels)), storable(stem_of(image))
        case = _CHANNEL.sub("", series) if channels else without_sequence(series)
        item = Found(image, label_of_it, subject, series, problem, sequence, channel)
        result.append(replace(item, case=f"{image.parent.resolve()}/{case}", case_name=case))
    return result


def _beginnings(stem: str) -> Iterator[tuple[str, bool]]:
    """Beginnings of a name that end at a separator, longest first, as long as the rest holds no unknown number.

    With each: whether the rest is nothing but sequence and label words.
    """
    tokens = list(_TOKEN.finditer(stem))
    plain = True
    for k in range(len(tokens), 0, -1):
        yield stem[: tokens[k - 1].end()], plain
        word = tokens[k - 1].group(0)
        plain = plain and _is_suffix(word)
        if not (_is_suffix(word) or _has_no_digit(word)):
            return


def _problem(image: Path, labels: list[Path], twice: bool) -> str | None:
    files = [image, *labels]
    for file in files:
        if not file.exists():
            what = (
                "is a link that leads nowhere; fetch its content"
                if file.is_symlink()
                else "is missing; correct the list"
            )
            return f"expected a file, {shown(file.name)} {what}"
        if storable(file.name) != file.name:
            return f"expected a file name in UTF-8, found {shown(file.name)}; rename it"
    if twice:
        return f"expected one file named {shown(stem_of(image))}, found it as .nii and .nii.gz; remove one"
    if len(labels) > 1:
        names = ", ".join(shown(p.name) for p in labels)
        return f"expected one label map, found {len(labels)}: {names}; leave the right one"
    return None


def _ends_in_channels(images: list[Path], labels: list[Path], by_rule: bool) -> bool:
    """Whether `_0000` at the end of every name is an nnU-Net channel, not the number of a case.

    It is when no label map carries such a name, and the folder's name makes it the rule or every case has a channel 0
    and there are several cases (`case_0000`, `case_0001`, ... are no channels).
    """
    stems = {stem_of(p) for p in images}
    cases = {_CHANNEL.sub("", stem) for stem in stems}
    if not stems or not all(_CHANNEL.search(stem) for stem in stems) or stems & {stem_of(p) for p in labels}:
        return False
    return by_rule or (all(f"{case}_0000" in stems for case in cases) and (len(cases) > 1 or len(stems) == 1))


def _is_label(path: Path) -> bool:
    return _LABEL.fullmatch(_last(path)) is not None


def _last(path: Path) -> str:
    return ([t.group(0) for t in _TOKEN.finditer(stem_of(path))] or [""])[-1]


def _is_suffix(word: str) -> bool:
    return bool(_SEQUENCE.fullmatch(word) or _LABEL.fullmatch(word))


def _has_no_digit(word: str) -> bool:
    return not any(c.isdigit() for c in word)


def _says_nobody(word: str) -> bool:
    """Whether a word cannot be the number of a person."""
    return bool(_is_suffix(word) or _VISIT.fullmatch(word) or _has_no_digit(word))


def _escape(text: str) -> str:
    escaped = text.replace("\\", "\\\\")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in escaped)
