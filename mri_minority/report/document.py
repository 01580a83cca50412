"""The frame of every page: one file that opens offline, with its contents, in light and dark."""

import html
from importlib import resources
from pathlib import Path

from mri_minority.volumes.atomic import write_text_atomic


def write_document(path: Path, title: str, lead: str, parts: list[tuple[str, str, str]]) -> None:
    """Write a page.

    Args:
        path: Where.
        title: Plain text.
        lead: What to know first, HTML.
        parts: Anchor, heading and HTML of every section.
    """
    style = resources.files("mri_minority.report").joinpath("report.css").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{key}">{heading}</a></li>' for key, heading, _ in parts)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{heading}</h2>{text}</section>'
        for key, heading, text in parts
    )
    safe = html.escape(title)
    write_text_atomic(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{safe}</title>'
        f"<style>{style}</style></head><body>"
        f'<a class="skip" href="#{parts[0][0]}">To the report</a><header><h1>{safe}</h1>'
        f"<p>{lead}</p>"
        f'</header><nav aria-label="Contents"><ol>{links}</ol></nav><main>{body}</main></body></html>\n',
    )
