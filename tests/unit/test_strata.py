"""Strata: level x sequence x site, what is thin merged; and where a site may come from."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from mri_minority.core.errors import DataError
from mri_minority.slices.strata import Strata, fit_strata
from mri_minority.volumes.discover import discover
from mri_minority.volumes.sites import plain_site, scanner_of, shared, sites_of_table


def fitted(counts: dict[tuple[str, str], int], bins: int = 2, at_least: int = 20) -> Strata:
    kinds = [kind for kind, n in counts.items() for _ in range(n)]
    height = np.concatenate([np.linspace(0.05, 0.95, n) for n in counts.values()])
    return fit_strata(height, (0.0, 1.0), bins, at_least, kinds)


def test_each_kind_has_its_own_bins() -> None:
    strata = fitted({("T1", "A"): 100, ("T1", "B"): 60, ("FLAIR", "A"): 50})
    assert strata.names == (
        *("height 0.00-0.50, T1, site A", "height 0.50-1.00, T1, site A"),
        *("height 0.00-0.50, T1, site B", "height 0.50-1.00, T1, site B"),
        *("height 0.00-0.50, FLAIR, site A", "height 0.50-1.00, FLAIR, site A"),
    )
    assert strata.merged == ()
    heights = np.array([0.1, 0.9, 0.1, 0.9])
    assert strata.of(heights, [("T1", "B"), ("T1", "A"), ("FLAIR", "A"), ("FLAIR", "A")]).tolist() == [2, 1, 4, 5]
    np.testing.assert_allclose(strata.middles(0.0), [0.25, 0.75] * 3)


def test_one_kind_is_not_named() -> None:
    assert fitted({("T1", "A"): 100}).names == ("height 0.00-0.50", "height 0.50-1.00")
    assert fitted({("T1", "A"): 100, ("T1", "B"): 100}).names[0] == "height 0.00-0.50, site A"


def test_a_thin_kind_joins_the_largest_of_its_sequence_and_a_thin_bin_its_neighbour() -> None:
    strata = fitted({("T1", "A"): 100, ("FLAIR", "A"): 200, ("T1", "B"): 10, ("T1", "C"): 30})
    assert strata.groups == ((("FLAIR", "A"),), (("T1", "A"), ("T1", "B")), (("T1", "C"),))
    assert "T1 of site B held 10 slices (under 20): merged with T1 of site A" in strata.merged
    assert [n for n in strata.names if "site C" in n] == ["height 0.00-1.00, T1, site C"]
    assert any(sentence.endswith("merged, T1, site C") for sentence in strata.merged)
    assert strata.of(np.array([0.9]), [("T1", "B")]).tolist() == strata.of(np.array([0.9]), [("T1", "A")]).tolist()


def test_a_thin_sequence_joins_the_largest_group() -> None:
    strata = fitted({("T1", ""): 100, ("PD", ""): 5})
    assert strata.groups == ((("T1", ""), ("PD", "")),)
    assert strata.names == ("height 0.00-0.50", "height 0.50-1.00")


def test_an_unseen_kind_goes_to_its_sequence_else_to_the_largest_group() -> None:
    strata = fitted({("T1", "A"): 100, ("FLAIR", "A"): 50})
    found = strata.of(np.full(3, 0.1), [("FLAIR", "Z"), ("PD", ""), ("T1", "")])
    assert found.tolist() == [2, 0, 0]
    assert strata.of(np.array([0.1, 0.9])).tolist() == [0, 1]


def test_strata_survive_the_card_and_older_cards_are_read() -> None:
    strata = fitted({("T1", "A"): 100, ("T1", "B"): 60})
    assert Strata.from_json(strata.as_json()) == strata
    old = Strata.from_json({"edges": [0.4, 0.9], "names": ["height 0.10-0.40", "height 0.40-0.90"], "merged": []})
    assert old.of(np.array([0.2, 0.5, 1.0]), [("T1", "A")] * 3).tolist() == [0, 1, 1]
    np.testing.assert_allclose(old.middles(0.1), [0.25, 0.65])


def test_every_slice_is_in_one_stratum_and_none_is_thin() -> None:
    rng = np.random.default_rng(0)
    kinds = [(("T1", "FLAIR")[int(a)], "ABC"[int(b)]) for a, b in rng.integers(0, [2, 3], (500, 2))]
    height = rng.uniform(0.1, 0.95, 500)
    strata = fit_strata(height, (0.1, 0.95), 5, 25, kinds)
    counts = np.bincount(strata.of(height, kinds), minlength=len(strata.names))
    assert counts.sum() == 500
    assert counts.min() >= 25


def test_a_site_is_a_short_code_and_nothing_else() -> None:
    for said, found in {"HH": "HH", " Guys ": "Guys", "n/a": "", "": "", "St. Mary\tLondon": "", "x" * 25: ""}.items():
        assert plain_site(said) == found
    assert shared([("A", "s1"), ("A", "s2"), ("B", "s3"), ("B", "s3"), ("", "s4"), ("", "s5")]) == {"A"}


def test_sites_come_from_participants_tsv(tmp_path: Path) -> None:
    for name in ("anna_T1.nii.gz", "bert_T1.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsite\nanna\t40\tHH\nbert\t50\tMr. Smith, London\n")
    assert {item.subject: item.site for item in discover([tmp_path])} == {"anna": "HH", "bert": ""}
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nanna\t40\n")
    assert sites_of_table(tmp_path / "participants.tsv") == {}
    (tmp_path / "participants.tsv").unlink()
    (tmp_path / "participants.tsv").symlink_to(tmp_path / "participants.tsv")
    assert sites_of_table(tmp_path / "participants.tsv") == {}


def test_a_table_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mri_minority.volumes.sites._MAX_BYTES", 10)
    (tmp_path / "participants.tsv").write_text("participant_id\tsite\nanna\tHH\n")
    with pytest.raises(DataError, match="at most 10 bytes"):
        sites_of_table(tmp_path / "participants.tsv")


@pytest.mark.parametrize(
    ("maker", "tesla", "found"),
    [
        ("SIEMENS", 2.89, "SIEMENS 3T"),
        ("Siemens Healthineers", None, "SIEMENS"),
        ("GE MEDICAL SYSTEMS", 1.5, "GE 1.5T"),
        ("GERTRUDE PLANTED", 3.0, ""),
        (None, 3.0, ""),
        ("Philips", "abc", "PHILIPS"),
    ],
)
def test_of_a_scanner_only_known_makers_and_the_strength_are_said(maker: str, tesla: object, found: str) -> None:
    header = pydicom.Dataset()
    header.Manufacturer = maker
    if tesla is not None:
        with pydicom.config.disable_value_validation():
            header.add_new("MagneticFieldStrength", "LO" if isinstance(tesla, str) else "DS", tesla)
    assert scanner_of(header) == found
