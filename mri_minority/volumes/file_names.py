"""What file names say: whose image it is, of which sequence and visit, whether it is a label map."""

import re
from collections.abc import Iterator
from pathlib import Path

NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
CHANNEL = re.compile(r"_(\d{4})$")
"""How nnU-Net ends a name: with the number of the channel."""

# Names are read as tokens: "IXI013-HH-1212_T1" is IXI013, HH, 1212, T1. A date or a session is one token.
_END = r"(?=[_.\-\s]|$)"
_DATE = rf"(?:19|20)\d\d-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01]){_END}"
_SESSION = rf"(?:ses|session|visit|tp|timepoint|run)-?\d+{_END}"
_TOKEN = re.compile(rf"{_DATE}|{_SESSION}|[^_.\-\s]+", re.IGNORECASE)
_VISIT = re.compile(rf"{_DATE}|{_SESSION}", re.IGNORECASE)
_SEQUENCE = re.compile(r"T1(w|c|n|ce|gd)?|T2(w|f)?|FLAIR|PDw?|MP2?RAGE|SPGR|SWI|DWI|ADC|MRA", re.IGNORECASE)
_LABEL = re.compile(r"dseg|a?seg|segmentation|mask|labels?|lesions?|DLMUSE|gt", re.IGNORECASE)
NEVER = re.compile(r"probseg|defacemask", re.IGNORECASE)
"""Last words of files that are neither image nor label map."""
_KINDS = {
    **dict.fromkeys(("T1W", "T1N"), "T1"),
    **dict.fromkeys(("T1C", "T1GD"), "T1CE"),
    **{"T2W": "T2", "T2F": "FLAIR", "PDW": "PD"},
}


def kind_of(word: str) -> str:
    """One spelling per sequence: "T1w", "t1" -> "T1"; "t2f" -> "FLAIR"."""
    return _KINDS.get(word.upper(), word.upper())


def stem_of(path: Path) -> str:
    """File name without .nii or .nii.gz."""
    return NIFTI.sub("", path.name) if NIFTI.search(path.name) else path.stem


def subject_of(path: Path, channels: bool = False) -> str:
    """Key of the subject: the BIDS `sub-` entity, else the name up to its sequence, label, session or date.

    Args:
        path: The image file; only its name is read.
        channels: Whether the name ends in an nnU-Net channel (`_0000`).
    """
    stem = CHANNEL.sub("", stem_of(path)) if channels else stem_of(path)
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


def channel_kind(channels: dict[int, str], number: int) -> str | None:
    """The sequence that a channel's name says, or None: a name such as "MRI" says none."""
    name = channels.get(number, "")
    return kind_of(name) if _SEQUENCE.fullmatch(name) else None


def sequence_of(path: Path) -> str | None:
    """The last word of a name that is a sequence."""
    words = [t.group(0) for t in _TOKEN.finditer(stem_of(path))]
    return next((kind_of(word) for word in reversed(words) if _SEQUENCE.fullmatch(word)), None)


def beginnings(stem: str) -> Iterator[tuple[str, bool]]:
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


def is_label(path: Path) -> bool:
    return _LABEL.fullmatch(last_word(path)) is not None


def last_word(path: Path) -> str:
    return ([t.group(0) for t in _TOKEN.finditer(stem_of(path))] or [""])[-1]


def _is_suffix(word: str) -> bool:
    return bool(_SEQUENCE.fullmatch(word) or _LABEL.fullmatch(word))


def _has_no_digit(word: str) -> bool:
    return not any(c.isdigit() for c in word)


def _says_nobody(word: str) -> bool:
    """Whether a word cannot be the number of a person."""
    return bool(_is_suffix(word) or _VISIT.fullmatch(word) or _has_no_digit(word))
