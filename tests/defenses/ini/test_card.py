from defenses.ini.card import UNKNOWN, Source, card, with_protection
from defenses.ini.recipe import IniRecipe

WEIGHTS, OWN = Source("m.safetensors", "aa"), Source("mnist.npz", "bb")
FOREIGN = [Source("fashion.npz", "cc", left_out=3)]


def test_the_card_names_data_hashes_accuracy_and_settings(recipe: IniRecipe) -> None:
    text = card(recipe, WEIGHTS, OWN, FOREIGN, 0.9942)

    assert "trained with Isolation and Induction; 99.42% of the test pictures right" in text
    assert "| `mnist.npz` | own | `bb` | 0 |" in text
    assert "| `fashion.npz` | foreign | `cc` | 3 |" in text
    assert "| `gamma` | `1.0` |" in text
    assert str(recipe.output) not in text
    assert text.rstrip().endswith(UNKNOWN)


def test_the_baseline_says_that_it_is_not_defended(recipe: IniRecipe) -> None:
    plain = recipe.model_copy(update={"defended": False})

    assert "no defense (the baseline)" in card(plain, WEIGHTS, OWN, [], 0.99)


def test_what_is_measured_takes_the_place_of_what_was_said_before(recipe: IniRecipe) -> None:
    text = card(recipe, WEIGHTS, OWN, FOREIGN, 0.99)
    once = with_protection(text, [{"thief": "letters", "clone": "0.3"}])
    twice = with_protection(once, [{"thief": "letters", "clone": "0.2"}])

    assert "| letters | 0.3 |" in once
    assert UNKNOWN not in once
    assert "| letters | 0.2 |" in twice
    assert "0.3" not in twice.partition("## Protection")[2]
