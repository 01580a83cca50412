"""The documentation is true to the program: command lines parse, tables list what there is, Python blocks run."""

import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
import yaml

from mri_minority.export.nifti import export_slice
from mri_minority.slices.select import CutSlices
from mri_minority.slices.store import StoreWriter
from mri_minority_cli.app import app
from mri_minority_pipelines.config import Recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *(p for p in [ROOT / "README.md"] if p.is_file())]
VERBS: dict[str, Any] = getattr(typer.main.get_command(app), "commands")  # noqa: B009, the base class has none
STAGES = ("prepare", "denoiser", "score", "classifier", "discriminator", "audit", "sample")


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of every fenced block."""
    for found in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def command_lines(text: str) -> Iterator[tuple[list[str], bool]]:
    """Words of every command line of ours after the program's name, and whether it stands whole in a block."""
    for language, block in blocks(text):
        if language in ("bash", "sh", "shell", "console", ""):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|\|\||[;|]", line.strip().removeprefix("$ ")):
                    words = shlex.split(part, comments=True)
                    if words[:1] == ["mri-minority"]:
                        yield words[1:], True
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`mri-minority ([^`]+)`", prose):
        yield shlex.split(span), False


def problem_of(words: list[str], whole: bool) -> str | None:
    """Why a command line would be refused, or None; a mention in prose may leave out what is needed."""
    if not words or words == ["--help"]:
        return None
    verb = VERBS.get(words[0])
    if verb is None:
        return f"no verb {words[0]!r}"
    rest = [word for word in words[1:] if word != "--help"]
    if not whole or len(rest) < len(words) - 1:
        known = {option for parameter in verb.params for option in parameter.opts}
        unknown = [word for word in rest if word.startswith("--") and word.split("=")[0] not in known]
        return f"no option {unknown[0]} of {words[0]}" if unknown else None
    try:
        verb.make_context(words[0], rest)
    except Exception as error:  # the class depends on whether Typer brings its own Click
        return str(error) or type(error).__name__
    return None


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_command_lines_parse(page: Path) -> None:
    wrong = [
        f"mri-minority {shlex.join(words)}: {problem}"
        for words, whole in command_lines(page.read_text(encoding="utf-8"))
        if (problem := problem_of(words, whole))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```bash\nmri-minority polish brains\n```", "no verb"),
        ("```bash\nmri-minority prepare brains --out x --fast\n```", "--fast"),
        ("```bash\nmri-minority prepare brains\n```", "out"),
        ("```bash\nmri-minority synthesize --model m --out o --count many\n```", "integer"),
        ("```bash\nls; mri-minority synthesize \\\n  --model m --out o --heights 0.3\n```", "heights"),
        ("As in `mri-minority train brains --quickly`.", "--quickly"),
    ],
)
def test_a_wrong_command_line_is_noticed(text: str, problem: str) -> None:
    ((words, whole),) = command_lines(text)
    assert problem in str(problem_of(words, whole))


def test_there_are_command_lines_to_check() -> None:
    found = [words[0] for page in PAGES for words, whole in command_lines(page.read_text(encoding="utf-8")) if whole]
    assert set(found) == set(VERBS)


def sections(page: str) -> dict[str, list[list[str]]]:
    """Second-level headings of a page -> cells of the table rows below each that begin with code."""
    parts = re.split(r"^## (.+)$", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    rows = [re.findall(r"^\| `(.+) \|$", body, re.MULTILINE) for body in parts[2::2]]
    return {name: [("`" + row).split(" | ") for row in found] for name, found in zip(parts[1::2], rows, strict=True)}


def test_the_reference_lists_every_verb_and_option() -> None:
    listed = sections("docs/reference/command-line.md")
    assert set(VERBS) <= set(listed)
    for name, verb in VERBS.items():
        options = {option for parameter in verb.params for option in parameter.opts if option.startswith("--")}
        cells = [row[0].strip("`") for row in listed[name]]
        assert {cell for cell in cells if cell.startswith("--")} == options, name


def test_the_reference_lists_every_setting_and_its_default() -> None:
    listed = sections("docs/reference/recipes.md")
    recipe = Recipe(name="", about="").model_dump(mode="json")
    assert set(recipe) == {"name", "about", *STAGES}
    for stage in STAGES:
        said = {row[0].strip("`"): yaml.safe_load(row[1].strip("`")) for row in listed[stage]}
        assert said == recipe[stage], stage


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_recipes_and_label_maps_are_valid(page: Path) -> None:
    for language, block in blocks(page.read_text(encoding="utf-8")):
        if language == "yaml":
            content = yaml.safe_load(block)
            if "about" not in content:
                content = {"name": "", "about": "", "prepare": {"labels": content}}
            Recipe.model_validate(content)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            aim = (page.parent / file).resolve() if file else page
            assert aim.exists(), f"{page_name(page)}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", aim.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, f"{page_name(page)}: {target}"


def python_blocks(page: Path) -> list[str]:
    return [block for language, block in blocks(page.read_text(encoding="utf-8")) if language in ("python", "py")]


@pytest.fixture
def folder_of_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a reader has at hand: a store `brains.store` and a synthetic data set `rare_slices`."""
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (4, 1, 16, 24)).astype(np.float32)
    label = rng.integers(0, 3, (4, 16, 24)).astype(np.uint8)
    plane = np.diag([2.0, 2.0, 2.0, 1.0])
    writer = StoreWriter(tmp_path / "brains.store", (16, 24))
    cut = CutSlices(image, label, np.linspace(0.2, 0.8, 4), np.arange(4), np.stack([plane] * 4), (700.0,))
    writer.append(cut, "anna", "anna_T1", "0" * 64, "train")
    writer.finish([0] * 4, {"label_names": ["brain", "lesion"], "strata": {"names": ["height 0.10-0.95"]}})
    rows = [
        {
            **export_slice(tmp_path / "rare_slices", f"synth_{i:05d}", image[i] + 1, label[i], plane, {}),
            "attributes": {},
        }
        for i in range(4)
    ]
    manifest = {"label_names": ["brain", "lesion"], "slices": rows}
    (tmp_path / "rare_slices" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI tries every reader it knows, DICOM ones too
@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=page_name)
def test_python_blocks_run(page: Path, folder_of_the_reader: Path) -> None:
    for number, block in enumerate(python_blocks(page), 1):
        code = compile(block, f"{page_name(page)}, block {number}", "exec")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(code, {"__name__": "__main__"})
        if "thin.tsv" in block:
            assert len((folder_of_the_reader / "thin.tsv").read_text().splitlines()) == 5
        else:
            assert said.getvalue()
