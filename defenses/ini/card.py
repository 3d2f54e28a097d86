"""The model card: what a victim was trained on, how, and what protection was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from defenses.ini.recipe import IniRecipe

PROTECTION = "## Protection"
UNKNOWN = "Not measured. `make bench-ini` measures it."


@dataclass(frozen=True, slots=True)
class Source:
    """A file of pictures: its name, its SHA-256, and how many of its pictures were left out."""

    name: str
    sha256: str
    left_out: int = 0


def card(
    recipe: IniRecipe, weights: Source, own: Source, foreign: Sequence[Source], accuracy: float
) -> str:
    """Markdown; ``accuracy`` is on the test pictures, 0 to 1."""
    how = "Isolation and Induction" if recipe.defended else "no defense (the baseline)"
    settings = recipe.model_dump(mode="json", exclude={"output", "warm_start", "kind"})
    return "\n".join(
        [
            f"# {weights.name}",
            "",
            f"A {recipe.architecture} trained with {how}; {accuracy:.2%} of the test pictures right.",
            "",
            "## Data",
            "",
            "| file | used as | SHA-256 | left out |",
            "| --- | --- | --- | --- |",
            *(
                f"| `{source.name}` | {use} | `{source.sha256}` | {source.left_out} |"
                for use, sources in (("weights", [weights]), ("own", [own]), ("foreign", foreign))
                for source in sources
            ),
            "",
            f"The last {recipe.holdout:,} rows of `{own.name}` were never trained on. Pictures left out",
            "were also in the training data.",
            "",
            "## Settings",
            "",
            "| setting | value |",
            "| --- | --- |",
            *(f"| `{name}` | `{value}` |" for name, value in settings.items()),
            "",
            PROTECTION,
            "",
            UNKNOWN,
            "",
        ]
    )


def with_protection(text: str, rows: Sequence[Mapping[str, str]]) -> str:
    """The card with a table of what was measured in place of what it said of protection."""
    head = text.partition(PROTECTION)[0]
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    lines += [f"| {' | '.join(row[name] for name in names)} |" for row in rows]
    return f"{head}{PROTECTION}\n\n" + "\n".join(lines) + "\n"
