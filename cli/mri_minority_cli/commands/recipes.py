"""mri-minority recipes: the settings that come with the program."""

from mri_minority_cli.options import Debug, Json
from mri_minority_cli.speech import speaking

EXAMPLE = "Example: mri-minority recipes"


def command(json: Json = False, debug: Debug = False) -> None:
    """List the recipes."""
    with speaking(json, debug) as speech:
        from mri_minority_pipelines.config import load_recipe, recipe_names

        recipes = {name: load_recipe(name).about for name in recipe_names()}
        speech.result(recipes, [f"{name}: {about}" for name, about in recipes.items()])
