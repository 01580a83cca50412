"""mri-minority doctor: versions, device, memory."""

from mri_minority_cli.options import Debug, Json
from mri_minority_cli.speech import speaking

EXAMPLE = "Example: mri-minority doctor"


def command(json: Json = False, debug: Debug = False) -> None:
    """Say what this machine has."""
    with speaking(json, debug) as speech:
        from mri_minority_pipelines.inspect import machine

        facts = machine()
        speech.result(facts, [f"{key}: {value}" for key, value in facts.items()])
