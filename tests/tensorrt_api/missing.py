"""The rule: in a version where an attribute's conditions hold, it must be there; and some version must have it.

So what no question guards must be in every version, and what is guarded in one of them at least: a question that no
version says yes to is a slip of the pen, which no computer would ever report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .touched import Touch

# Whether a chain of attributes is there.
Present = Mapping[str, bool]


def questions(touches: Iterable[Touch]) -> set[str]:
    """Return every chain that must be known of a version to judge these touches."""
    return {chain for touch in touches for chain in (touch.chain, *(condition.chain for condition in touch.conditions))}


def missing_in(version: str, touches: Iterable[Touch], present: Present) -> list[str]:
    """Return a line for each attribute that the code would come to in this version, and that it does not have."""
    return [
        f"{touch.place}: {touch.chain} is not in {version}" for touch in touches if _reached(touch, present) and not present[touch.chain]
    ]


def missing_everywhere(touches: Iterable[Touch], versions: Mapping[str, Present]) -> list[str]:
    """Return a line for each attribute that no version has, whatever the conditions."""
    return [
        f"{touch.place}: {touch.chain} is in none of {', '.join(versions)}"
        for touch in touches
        if not any(present[touch.chain] for present in versions.values())
    ]


def _reached(touch: Touch, present: Present) -> bool:
    return all(present[condition.chain] == condition.present for condition in touch.conditions)
