"""The report is whole, opens offline, and says what was measured; bad input is one clear line."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mri_minority.export.dataset import write_manifest
from mri_minority.export.nifti import export_slice
from mri_minority.report.page import _lead
from mri_minority.slices.store import SliceStore
from mri_minority.volumes.atomic import sha256_of
from mri_minority_cli.app import app
from mri_minority_pipelines.config import SampleConfig
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.stages import synthesize
from tests.support.browser import chromium, tab
from tests.support.tiny import silent

run = CliRunner().invoke
VOID = ("img", "meta", "link", "path", "line", "br", "input", "rect")


def dress(folder: Path, store: SliceStore, positions: np.ndarray, labels: bool = True, nan: bool = False) -> Path:
    """Slices of a store in the clothes of a synthetic data set."""
    image, label = store.read(positions)
    rows = []
    for n, position in enumerate(positions):
        affine = np.diag([4.0, 4.0, 4.0, 1.0])
        pixels = ((image[n] + 1) / 2 * 240).astype(np.float32)
        row = export_slice(folder, f"synth_{n:05d}", pixels, label[n] if labels else None, affine, {})
        if nan:
            _spoil(folder, row)
        rows.append({**row, "item": n, "stratum": store.rows[position].stratum, "attributes": {}})
    header = {"label_names": list(store.label_names) if labels else [], "white": 240.0, "audit": "not run"}
    write_manifest(folder, {**header, "method": "ancestral"}, rows)
    return folder


def _spoil(folder: Path, row: dict[str, Any]) -> None:
    """Put NaN where no program of ours would, with a hash that fits."""
    path = folder / row["image"]
    picture = nib.load(path)
    pixels = np.asarray(picture.dataobj).copy()
    pixels[20, 20] = np.nan
    nib.save(nib.Nifti1Image(pixels, picture.affine, picture.header), path)
    row["image_sha256"] = sha256_of(path)


class Reader(HTMLParser):
    """Collects what a browser would fetch, and checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.pictures_without_text = 0
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [str(given[k]) for k in ("src", "href") if k in given]
        if tag == "img" and not given.get("alt"):
            self.pictures_without_text += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag


def test_the_report_of_held_out_slices(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Real held-out slices: their figures are those of the row that says what real slices get."""
    held = store.indices("holdout")
    folder = dress(tmp_path / "set", store, held)
    out = tmp_path / "report"
    result = run(
        app, ["evaluate", str(folder), "--against", str(store.folder), "--model", str(model), "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    sets = metrics["fidelity"]["handcrafted"]
    if sets["held-out real"]["n"] == len(held):
        assert sets["synthetic"]["kid"] == pytest.approx(sets["held-out real"]["kid"], abs=1e-4)
    assert {"precision", "coverage", "fid", "rarity_undefined"} <= set(sets["synthetic"])
    assert metrics["agreement"]["dice"].keys() == set(store.label_names)
    text = (out / "report.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert all(link.startswith(("data:", "#")) for link in reader.links)
    assert reader.pictures_without_text == 0
    assert not re.search(r"url\(|@import|<script src", text)
    assert metrics["precision_by_rarity"]["slices"]["synthetic"] != [0, 0, 0, 0]
    assert sum(metrics["precision_by_rarity"]["slices"]["synthetic"]) == len(held)
    for heading in (
        "Congruence",
        "Coverage",
        "Constraint",
        "Completeness",
        "Compliance",
        "Comprehension",
        "Consistency",
    ):
        assert heading in text
    assert not [row.subject for row in store.rows if row.subject in text]


def test_the_page_says_of_whom_the_slices_are() -> None:
    rows = [{"trace": {"label_from": "drawn"}}]
    assert "none is of a person" in _lead({"slices": rows})
    assert "derived from people" in _lead({"slices": rows, "derived": True})
    assert "may be people's" in _lead({"slices": [*rows, {"trace": {"label_from": "training map"}}]})


@pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
def test_the_report_in_a_browser(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Nothing complains, nothing is fetched, nothing sticks out; the viewer opens and obeys the keyboard; it prints."""
    folder = dress(tmp_path / "set", store, store.indices("holdout")[:8])
    out = tmp_path / "report"
    arguments = ["evaluate", str(folder), "--against", str(store.folder), "--model", str(model), "--out", str(out)]
    assert run(app, arguments).exit_code == 0
    with tab(tmp_path / "browser") as page:
        for width, dark, phone in ((1280, False, False), (1280, True, False), (390, False, True)):
            page.open(out / "report.html", width, dark, phone)
            assert page.run("document.documentElement.scrollWidth") <= width
            assert page.run("[...document.images].every(i => i.naturalWidth > 0)")
            ink = page.run("getComputedStyle(document.body).color")
            assert (ink == "rgb(232, 233, 237)") == dark
        page.key("Tab", 9)
        assert page.run("document.activeElement.className") == "skip"
        page.run("document.getElementById('viewer-open').focus()")
        page.key("Enter", 13)
        page.wait("/8/.test(document.getElementById('viewer-said').textContent)")
        assert page.run("document.getElementById('viewer-said').textContent") == "synth_00000 (1 of 8)"
        page.run("document.getElementById('viewer-number').focus()")
        page.key("ArrowRight", 39)
        assert page.run("document.getElementById('viewer-said').textContent") == "synth_00001 (2 of 8)"
        assert page.paper().startswith(b"%PDF")
        assert page.console == []
        assert {url.split(":")[0] for url in page.requests} <= {"file", "data", "blob"}


def test_an_unguided_set_is_in_the_histograms(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """A third line and its legend; without the option there is none."""
    guided = dress(tmp_path / "guided", store, store.indices("holdout")[:6])
    unguided = dress(tmp_path / "unguided", store, store.indices("holdout")[6:12])
    pages = []
    for more in ([], ["--unguided", str(unguided)]):
        out = tmp_path / f"report{len(more)}"
        arguments = ["evaluate", str(guided), "--against", str(store.folder), "--model", str(model), "--out", str(out)]
        assert run(app, [*arguments, "--no-viewer", *more]).exit_code == 0
        pages.append((out / "report.html").read_text(encoding="utf-8"))
    assert [page.count('<path class="plain"') for page in pages] == [0, 2 * len(store.label_names)]


def test_without_the_viewer_the_page_holds_no_script(model: Path, store: SliceStore, tmp_path: Path) -> None:
    folder = dress(tmp_path / "set", store, store.indices("holdout")[:5])
    out = tmp_path / "report"
    arguments = ["evaluate", str(folder), "--against", str(store.folder), "--model", str(model), "--out", str(out)]
    assert run(app, [*arguments, "--no-viewer"]).exit_code == 0
    assert "<script" not in (out / "report.html").read_text(encoding="utf-8")


def test_a_set_without_labels_is_judged_by_its_images(tmp_path: Path, store: SliceStore, model: Path) -> None:
    """Against a store with labels it is refused: it cannot be of that model."""
    folder = dress(tmp_path / "bare", store, store.indices("train")[:6], labels=False)
    result = run(app, ["evaluate", str(folder), "--against", str(store.folder), "--out", str(tmp_path / "r")])
    assert result.exit_code == 3
    assert "found none" in result.stderr


def test_bad_input_is_one_line(model: Path, store: SliceStore, tmp_path: Path) -> None:
    train = store.indices("train")

    def says(folder: Path) -> str:
        arguments = ["evaluate", str(folder), "--against", str(store.folder), "--model", str(model)]
        result = run(app, [*arguments, "--out", str(tmp_path / "r")])
        assert result.exit_code == 3, result.output
        assert not (tmp_path / "r").exists()
        lines = [line for line in result.stderr.splitlines() if line.startswith("error")]
        assert len(lines) == 1
        return lines[0]

    assert "4 or more slices" in says(dress(tmp_path / "three", store, train[:3]))
    assert "NaN" in says(dress(tmp_path / "nan", store, train[:5], nan=True))
    changed = dress(tmp_path / "changed", store, train[:5])
    (changed / "images" / "synth_00001.nii.gz").unlink()
    assert "synth_00001.nii.gz is missing" in says(changed)
    other = tmp_path / "other"
    config = SampleConfig(steps=2, precision="float32")
    request = synthesize.Request("rare", "minority", "ancestral", 4, (0.0, 1.0), seed=1)
    synthesize.run(request, config, ModelFolder(model), other, torch.device("cpu"), silent, audit=False)
    manifest = json.loads((other / "manifest.json").read_text())
    row = manifest["slices"][0]
    picture = nib.load(other / row["image"])
    small = nib.Nifti1Image(np.zeros((8, 8, 1), np.float32), picture.affine, picture.header)
    nib.save(small, other / row["image"])
    row["image_sha256"] = sha256_of(other / row["image"])
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert "expected slices of (1, 48, 64) channels and pixels" in says(other)
