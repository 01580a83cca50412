"""Find images and their labels in the layouts that labs have, without configuration."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import shown, write_text_atomic
from mri_minority.volumes.datalist import Datalist, read_datalist
from mri_minority.volumes.dicom import DicomSeries, find_series, has_dicom
from mri_minority.volumes.file_names import (
    CHANNEL,
    NEVER,
    NIFTI,
    beginnings,
    channel_kind,
    is_label,
    kind_of,
    last_word,
    sequence_of,
    stem_of,
    storable,
    subject_of,
    without_sequence,
)
from mri_minority.volumes.sites import sites_of_table

_PAIRS = (("images", "labels"), ("imagesTr", "labelsTr"))
_LAYOUTS = (
    "a flat folder, images/ + labels/, nnU-Net (imagesTr/ + labelsTr/), a Decathlon dataset.json, BIDS "
    "(sub-*/[ses-*/]anat/) or a folder of DICOM files"
)


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
    if not NIFTI.search(source.name):
        raise DataError(f"expected a .nii or .nii.gz file or a folder of them, found {shown(source)}; convert it first")
    return source


def _one_by_one(folder: Path, files: list[Path]) -> list[Found]:
    """Files of one folder that were named one by one: label maps lie where they would if the folder had been given."""
    images = [path for path in files if not is_label(path)]
    if not images:
        raise DataError(
            f"expected an image, {shown(files[0])} is called as label maps are; give the image, or the folder"
        )
    where = folder.resolve()  # "." has no name
    numbered = where.name == "imagesTr"
    beside = next((where.parent / maps for name, maps in _PAIRS if name == where.name), folder)
    maps = [path for path in _niftis(beside) if beside != folder or is_label(path)] if beside.is_dir() else []
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
        maps = [p for p in [*scans, *_below(folder, "derivatives/**/anat")] if is_label(p)]
        maps = [p for p in maps if stem_of(p).endswith("_dseg")] or maps
        return _pair(sorted(p for p in scans if not is_label(p)), sorted(set(maps)), False)
    files = _niftis(folder)
    maps = [p for p in files if is_label(p)]
    images_here = [p for p in files if not is_label(p)]
    return _pair(images_here, maps, _ends_in_channels(images_here, maps, False), channel_names)


def _listed(listed: Datalist) -> list[Found]:
    """Images of a list, each with the label map that the list gives it."""
    found = []
    names = Counter(image.resolve() for entry in listed.entries for image in entry.images)
    for case, (images, label, site) in enumerate(listed.entries):
        for number, image in enumerate(images):
            wrong = [p for p in (image, label) if p is not None and not NIFTI.search(p.name)]
            maps = [label] if label is not None else []
            problem = _problem(image, maps, False) if not wrong else f"expected NIfTI, listed is {shown(wrong[0].name)}"
            if names[image.resolve()] > 1:
                problem = (
                    f"expected each image once in the list, {shown(image.name)} is there {names[image.resolve()]} times"
                )
            item = Found(
                image, label, storable(subject_of(image)), storable(stem_of(image)), problem, sequence_of(image)
            )
            item = replace(item, site=site, case=f"{image.parent.resolve()}/{case}", case_name=item.series)
            channels = listed.channels
            if len(images) > 1:  # one file per channel
                found.append(replace(item, channel=number, sequence=channel_kind(channels, number) or item.sequence))
            elif len(channels) > 1:  # one 4-D file with all of them
                stem = item.series
                found.extend(
                    replace(item, series=f"{stem}:{n}", channel=n, sequence=kind_of(name))
                    for n, name in channels.items()
                )
            else:
                found.append(replace(item, sequence=channel_kind(channels, 0) or item.sequence))
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


def _below(folder: Path, pattern: str) -> Iterator[Path]:
    """NIfTI files of a BIDS dataset in the folders that match."""
    for anat in sorted(folder.glob(pattern)):
        if anat.is_dir():
            yield from (p for p in _niftis(anat) if p.name.startswith("sub-") and not NEVER.fullmatch(last_word(p)))


def _niftis(folder: Path) -> list[Path]:
    """NIfTI files, links that lead nowhere included: they are refused by name, not left out in silence."""
    names = (p for p in folder.iterdir() if NIFTI.search(p.name) and not p.name.startswith("."))
    return sorted(p for p in names if p.is_file() or (p.is_symlink() and not p.exists()))


def _pair(
    images: list[Path], labels: list[Path], channels: bool, channel_names: dict[int, str] | None = None
) -> list[Found]:
    """Give every image its label map. Takes time in proportion to the number of files."""
    stems = [CHANNEL.sub("", stem_of(p)) if channels else stem_of(p) for p in images]
    by_beginning: defaultdict[str, list[tuple[int, bool]]] = defaultdict(list)
    for number, stem in enumerate(stems):
        for beginning, plain in beginnings(stem):
            by_beginning[beginning].append((number, plain))
    fits: defaultdict[int, list[tuple[int, Path]]] = defaultdict(list)
    for label in labels:
        for beginning, plain in beginnings(stem_of(label)):
            numbers = [number for number, image_plain in by_beginning.get(beginning, ()) if plain or image_plain]
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
        end = CHANNEL.search(stem_of(image)) if channels else None
        channel = int(end.group(1)) if end else None
        sequence = (channel_kind(channel_names or {}, channel) if channel is not None else None) or sequence_of(image)
        subject, series = storable(subject_of(image, channels)), storable(stem_of(image))
        case = CHANNEL.sub("", series) if channels else without_sequence(series)
        item = Found(image, label_of_it, subject, series, problem, sequence, channel)
        result.append(replace(item, case=f"{image.parent.resolve()}/{case}", case_name=case))
    return result


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
    cases = {CHANNEL.sub("", stem) for stem in stems}
    if not stems or not all(CHANNEL.search(stem) for stem in stems) or stems & {stem_of(p) for p in labels}:
        return False
    return by_rule or (all(f"{case}_0000" in stems for case in cases) and (len(cases) > 1 or len(stems) == 1))


def _escape(text: str) -> str:
    escaped = text.replace("\\", "\\\\")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in escaped)
