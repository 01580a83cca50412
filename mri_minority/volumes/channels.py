"""Which of the discovered images are taken: all, one sequence of every head, or several as the channels of one."""

from dataclasses import replace
from pathlib import Path

from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import shown
from mri_minority.volumes.discover import Found
from mri_minority.volumes.file_names import kind_of

Sequences = str | tuple[str, ...]
Numbers = int | tuple[int, ...] | None


def chosen(found: list[Found], sequence: Sequences, channel: Numbers) -> list[Found]:
    """Take what a recipe asks for.

    Args:
        found: What was discovered.
        sequence: Kind of image, for example "T1"; empty takes every one. An image that does not say what it is stays.
            Several, for example ("T1", "FLAIR"), become the channels of one head, in this order; then only images that
            say what they are count.
        channel: The same by number: nnU-Net's channel, or the volume of a 4-D file. Images that are no numbered
            channels stay: it is then the volume to take.

    Returns:
        The images, in a stable order. A head that lacks a channel, or has two of a kind, has a `problem`.

    Raises:
        DataError: Nothing is left.
    """
    if isinstance(sequence, tuple):
        wanted = [kind_of(word) for word in sequence]
        left = _joined([item for item in found if _number_fits(item, channel)], wanted, by_number=False)
    elif isinstance(channel, tuple):
        left = _joined([item for item in found if _kind_fits(item, sequence)], list(channel), by_number=True)
    else:
        left = [item for item in found if _kind_fits(item, sequence) and _number_fits(item, channel)]
        left = [replace(item, channel=channel) if item.channel is None else item for item in left]
    if found and not left:
        have = ", ".join(sorted({item.sequence or "unnamed" for item in found}))
        asked = f"sequence {sequence!r}, channel {channel!r}"
        raise DataError(f"expected images of {asked}, found only {have}; check `sequence` and `channel` of the recipe")
    return left


def _kind_fits(item: Found, sequence: Sequences) -> bool:
    return not isinstance(sequence, str) or not sequence or item.sequence in (None, kind_of(sequence))


def _number_fits(item: Found, channel: Numbers) -> bool:
    return not isinstance(channel, int) or item.channel in (None, channel)


def _joined(found: list[Found], wanted: list[str] | list[int], by_number: bool) -> list[Found]:
    """One item per case, with the wanted images as its channels."""
    cases: dict[str, list[Found]] = {}
    for item in found:
        cases.setdefault(item.case, []).append(item)
    return [_head(members, wanted, by_number) for members in cases.values()]


def _head(members: list[Found], wanted: list[str] | list[int], by_number: bool) -> Found:
    if by_number and len(members) == 1 and members[0].channel is None:  # the volumes of a 4-D file
        members = [replace(members[0], channel=int(number)) for number in wanted]
    taken: list[Found] = []
    problem = next((item.problem for item in members if item.problem), None)
    for one in wanted:
        fits = [item for item in members if (item.channel if by_number else item.sequence) == one]
        taken += fits[:1]
        if len(fits) != 1:
            have = ", ".join(f"{item.sequence or 'unnamed'} {shown(item.image.name)}" for item in members)
            what = " and ".join(str(each) for each in wanted)
            problem = problem or f"expected one image each of {what}, found {len(fits)} of {one} among {have}"
    first = (taken or members)[0]
    labels: list[Path] = list(dict.fromkeys(item.label for item in taken if item.label is not None))
    if len(labels) > 1:
        names = ", ".join(shown(path.name) for path in labels)
        problem = (
            problem or f"expected one label map for all channels, found {len(labels)}: {names}; leave the right one"
        )
    label = labels[0] if labels else None
    channels = tuple(replace(item, label=label if n == 0 else None) for n, item in enumerate(taken))
    series = first.case_name or first.series
    return replace(first, label=label, series=series, problem=problem, sequence=None, channel=None, channels=channels)
