"""The seven questions of the scorecard for synthetic medical data, answered from measurements."""

from typing import Any

from mri_minority.evaluate.attributes import size_attributes


def scorecard(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Heading, what it asks, and the answer.

    Args:
        metrics: As in metrics.json.

    Reference: the headings of Zamzmi et al. 2024, "Scorecards for synthetic medical data".
    """
    return [
        ("Congruence", "does it look like real data?", _congruence(metrics)),
        ("Coverage", "does it reach as far as real data?", _coverage(metrics)),
        ("Constraint", "does it keep to anatomy?", _constraint(metrics)),
        ("Completeness", "is what is needed there?", _completeness(metrics)),
        ("Compliance", "does it give anyone away?", _compliance(metrics)),
        ("Comprehension", "can a reader tell how it was made?", _comprehension(metrics)),
        ("Consistency", "does it say the same in every part?", _consistency(metrics)),
    ]


def _pairs(metrics: dict[str, Any], *names: str) -> str:
    said = []
    for space, sets in metrics["fidelity"].items():
        for name in names:
            real = sets.get("held-out real", {}).get(name)
            beside = f" (held-out real {real:.3g})" if real is not None else ""
            said.append(f"{name} {sets['synthetic'][name]:.3g}{beside} in {space} features")
    return "; ".join(said) + "."


def _congruence(metrics: dict[str, Any]) -> str:
    return _pairs(metrics, "kid", "precision")


def _coverage(metrics: dict[str, Any]) -> str:
    return _pairs(metrics, "recall", "coverage")


def _constraint(metrics: dict[str, Any]) -> str:
    agreement = metrics["agreement"]
    if not agreement:
        return "Not measured: no independent segmenter, or no label maps."
    if not agreement["judged_by"]:
        return "Not measured: the segmenter finds no label well enough in held-out real slices to judge by it."
    return (
        f"{len(agreement['below_gate'])} of {metrics['slices']} slices have a label map that an independent segmenter "
        f"does not confirm (Dice below {agreement['gate']} in {', '.join(agreement['judged_by'])})."
    )


def _completeness(metrics: dict[str, Any]) -> str:
    attributes = metrics["attributes"]
    said = ", ".join(f"{name} {attributes[name]['beyond_real_p95']:.0%}" for name in size_attributes(attributes))
    return (
        f"{metrics['slices']} slices; beyond the real 95th percentile (5 % of real slices are): {said}."
        if said
        else f"{metrics['slices']} slices without label maps."
    )


def _compliance(metrics: dict[str, Any]) -> str:
    audit = metrics["audit"]
    return (
        f"Copy audit: {audit['reject']} rejected, {audit['review']} to review of {audit['slices']}. No name, date or "
        "identifier of a person is in the files. Passing is evidence, not anonymity."
    )


def _comprehension(metrics: dict[str, Any]) -> str:
    return (
        f"Request, seed, levels and hashes are in the manifest (version {metrics['version']}); the data card is below."
    )


def _consistency(metrics: dict[str, Any]) -> str:
    pairs = len(metrics["audit"]["duplicates"])
    both = metrics["diversity_ms_ssim"]
    return (
        f"Every file has the hash that the manifest says; {pairs} pairs of slices are duplicates; random pairs are "
        f"alike by {both['synthetic']['mean']:.2f} (real {both['real']['mean']:.2f})."
    )
