"""English-like text that a grammar makes at random, of known entropy: data for language models and classifiers.

The packaged data sets ``sentences`` and ``reviews`` are made by ``python -m theanompi.data.sources.sentences NAME
OUT.h5``. Every sentence has one derivation, so that its probability is the product of those of the choices in it, and
the entropy of the text is that of the choices: what the best language model reaches on average.
"""

import argparse
import math
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theanompi.config import PACKAGED
from theanompi.data.reading.random import Purpose, uniforms
from theanompi.data.sources.texts import Characters, Words
from theanompi.data.store.record_writer import write_stream, write_texts
from theanompi.data.store.schema import SPLITS
from theanompi.system.output import print_anything

Grammar = Mapping[str, list[tuple[float, str]]]
"""By symbol what it becomes: weights, and words and symbols with spaces between them."""

FULL_STOP = "."
# Random numbers of one text, of which it takes one for each choice.
_MOST_CHOICES = 400
TRAIN_CHARACTERS, VAL_CHARACTERS = 200_000, 20_000
TRAIN_REVIEWS, VAL_REVIEWS = 2_000, 500
SOURCE = "made by theanompi.data.sources.sentences"
LICENCE = "CC0"


def zipf(words: str) -> list[tuple[float, str]]:
    """Weigh words by Zipf's law, 1/rank.

    >>> zipf("the a")
    [(1.0, 'the'), (0.5, 'a')]
    """
    return [(1 / rank, word) for rank, word in enumerate(words.split(), 1)]


SENTENCES: Grammar = {
    "SENTENCE": [
        (5, "CLAUSE ."),
        (2, "CLAUSE and CLAUSE ."),
        (1, "CLAUSE but CLAUSE ."),
        (2, "WHEN CLAUSE ."),
    ],
    "CLAUSE": [(3, "ONE DOES"), (2, "MANY DO")],
    "WHEN": zipf("today often now sometimes yesterday never"),
    # The verb has the number of its subject, however much stands between them.
    "ONE": [(4, "THE NOUN"), (3, "THE ADJECTIVE NOUN"), (1, "THE NOUN AT PHRASE"), (1, "THE NOUN that DOES")],
    "MANY": [
        (4, "SOME NOUNS"),
        (3, "SOME ADJECTIVE NOUNS"),
        (1, "SOME NOUNS AT PHRASE"),
        (1, "SOME NOUNS that DO"),
    ],
    "PHRASE": [(3, "ONE"), (2, "MANY")],
    "DOES": [(3, "SLEEPS"), (2, "SLEEPS HOW"), (6, "SEES PHRASE"), (1, "SAYS CLAUSE")],
    "DO": [(3, "SLEEP"), (2, "SLEEP HOW"), (6, "SEE PHRASE"), (1, "SAY CLAUSE")],
    "THE": zipf("the a every this"),
    "SOME": zipf("the some many these"),
    "AT": zipf("near behind with under"),
    "HOW": zipf("quietly again slowly outside together"),
    "ADJECTIVE": zipf("old little black young clever tired strange happy quiet yellow"),
    "NOUN": zipf("man dog woman cat child bird horse teacher farmer fish king neighbour"),
    "NOUNS": zipf("people dogs women cats children birds horses teachers farmers trees kings neighbours"),
    "SLEEPS": zipf("sleeps waits sings laughs runs dances falls"),
    "SLEEP": zipf("sleep wait sing laugh run dance fall"),
    "SEES": zipf("sees likes follows finds hears knows calls paints forgets"),
    "SEE": zipf("see like follow find hear know call paint forget"),
    "SAYS": zipf("says thinks hopes"),
    "SAY": zipf("say think hope"),
}
"""What ``sentences`` is made by: number agrees across phrases and clauses, and words have Zipf's frequencies."""

_SHARED: Grammar = {
    "REMARK": [(3, "i saw it with WHOM ."), (2, "it is from PLACE ."), (2, "WHOM came too .")],
    "WHOM": zipf("friends family nobody colleagues"),
    "PLACE": zipf("france japan abroad sweden brazil"),
    "WHAT": zipf("film plot music cast ending camera dialogue"),
    "VERY": zipf("very really rather quite so"),
    "GOOD": zipf("good great clever moving funny beautiful warm"),
    "BAD": zipf("bad boring dull slow empty silly cold"),
    # Of three opinions two decide, and each may be turned by one word.
    "PRAISE": [(2, "the WHAT was GOOD ."), (1, "the WHAT was VERY GOOD ."), (1, "the WHAT was not BAD .")],
    "BLAME": [(2, "the WHAT was BAD ."), (1, "the WHAT was VERY BAD ."), (1, "the WHAT was not GOOD .")],
}
REVIEWS: Grammar = {
    **_SHARED,
    "neg": [
        (2, "BLAME BLAME BLAME"),
        (1, "PRAISE BLAME BLAME"),
        (1, "BLAME REMARK PRAISE BLAME"),
        (1, "BLAME BLAME PRAISE"),
    ],
    "pos": [
        (2, "PRAISE PRAISE PRAISE"),
        (1, "BLAME PRAISE PRAISE"),
        (1, "PRAISE REMARK BLAME PRAISE"),
        (1, "PRAISE PRAISE BLAME"),
    ],
}
"""What ``reviews`` is made by: most opinions in a ``pos`` are good, in a ``neg`` bad, and "not" turns one around."""


class Made(NamedTuple):
    """A text of a grammar.

    Attributes
    ----------
    words : list of str
    nats : float
        −ln of its probability.
    """

    words: list[str]
    nats: float


def make(grammar: Grammar, start: str, numbers: Iterator[float]) -> Made:
    """Make a text.

    Parameters
    ----------
    grammar : Grammar
    start : str
        The symbol to begin with.
    numbers : iterator of float
        Uniform in [0, 1), one for each choice.

    Examples
    --------
    >>> make({"S": [(3, "a"), (1, "b S")]}, "S", iter([0.8, 0.1])).words
    ['b', 'a']
    """
    words, nats, left = [], 0.0, [start]
    while left:
        symbol = left.pop()
        if symbol not in grammar:
            words.append(symbol)
            continue
        rules = grammar[symbol]
        sums = list(accumulate(weight for weight, _ in rules))
        weight, becomes = rules[bisect(sums, next(numbers) * sums[-1])]
        nats -= math.log(weight / sums[-1])
        left += reversed(becomes.split())
    return Made(words, nats)


class Expected(NamedTuple):
    """Means over all texts that a grammar makes.

    Attributes
    ----------
    nats : float
        The entropy of a text.
    words, characters : float
        Its length as `written`.
    """

    nats: float
    words: float
    characters: float


def expected(grammar: Grammar, start: str) -> Expected:
    r"""Compute the entropy and the lengths of a text exactly.

    Of the symbol A, h(A) = Σ_r p_r·(−ln p_r + Σ_{B in r} h(B)), and likewise for lengths: linear equations
    (Grenander 1967, *Syntax-controlled probabilities*).

    Examples
    --------
    A geometric distribution:

    >>> found = expected({"S": [(1, "a"), (1, "b S")]}, "S")
    >>> round(found.nats / math.log(2), 6), round(found.words, 6)
    (2.0, 2.0)
    """
    symbols = list(grammar)
    # Of each symbol: how many of the others it becomes, and its own entropy, words and characters.
    becomes, own = np.zeros((len(symbols), len(symbols))), np.zeros((len(symbols), 3))
    for i, rules in enumerate(grammar.values()):
        total = sum(weight for weight, _ in rules)
        for weight, text in rules:
            p = weight / total
            own[i, 0] -= p * math.log(p)
            for word in text.split():
                if word in grammar:
                    becomes[i, symbols.index(word)] += p
                else:
                    own[i, 1:] += p, p * (len(word) + (word != FULL_STOP))
    means = np.linalg.solve(np.eye(len(symbols)) - becomes, own)[symbols.index(start)]
    return Expected(*means.tolist())


def texts(grammar: Grammar, starts: Sequence[str], split: int, first: int = 0) -> list[Made]:
    """Make texts, numbered from `first` on, of these symbols; each is a function of its number and split alone."""
    numbers = uniforms(0, split, np.arange(first, first + len(starts)), Purpose.SENTENCE, _MOST_CHOICES)
    return [make(grammar, start, iter(row)) for start, row in zip(starts, numbers.tolist(), strict=True)]


def written(made: Made) -> str:
    r"""A text as a line: words with spaces between them, the full stop without one.

    >>> written(Made(["birds", "sing", "."], 1.0))
    'birds sing.\n'
    """
    return " ".join(made.words).replace(f" {FULL_STOP}", FULL_STOP) + "\n"


def _stream(split: int, characters: int) -> tuple[str, float]:
    """So many characters at least of whole sentences, and −ln of their probability for each."""
    lines: list[str] = []
    nats = length = 0.0
    while True:
        for made in texts(SENTENCES, 100 * ["SENTENCE"], split, len(lines)):
            lines.append(written(made))
            nats, length = nats + made.nats, length + len(lines[-1])
            if length >= characters:
                return "".join(lines), nats / length


def write_sentences(path: str) -> None:
    """Write the packaged data set ``sentences``: a stream of characters."""
    parts = [_stream(split, n) for split, n in enumerate((TRAIN_CHARACTERS, VAL_CHARACTERS))]
    mean = expected(SENTENCES, "SENTENCE")
    coder = Characters()
    coder.count(parts[0][0], training=True)
    coder.learn()
    write_stream(
        path,
        *(coder.encode(text) for text, _ in parts),
        name="sentences",
        tokens="characters",
        vocabulary=coder.vocabulary,
        description=(
            f"English-like sentences of a random grammar. Its entropy is {mean.nats / mean.characters:.4f} nats for "
            f"each character, a perplexity of {math.exp(mean.nats / mean.characters):.3f}: no model is better on "
            f"average. Of the validation text itself it is {parts[1][1]:.4f}."
        ),
        source=SOURCE,
        licence=LICENCE,
    )


def _reviews(split: int, count: int) -> tuple[list[str], NDArray[np.int64]]:
    """Reviews and their labels, 0 and 1 in turn."""
    labels = np.arange(count) % 2
    made = texts(REVIEWS, [("neg", "pos")[label] for label in labels], split)
    return [" ".join(one.words) for one in made], labels


def write_reviews(path: str) -> None:
    """Write the packaged data set ``reviews``: texts of words, with labels."""
    splits = [_reviews(i, n) for i, n in zip(range(len(SPLITS)), (TRAIN_REVIEWS, VAL_REVIEWS), strict=True)]
    coder = Words()
    for text in splits[0][0]:
        coder.count(text, training=True)
    coder.learn()
    train, val = (([coder.encode(text) for text in reviews], labels) for reviews, labels in splits)
    write_texts(
        path,
        train,
        val,
        name="reviews",
        class_names=["neg", "pos"],
        tokens="words",
        vocabulary=coder.vocabulary,
        description=(
            "Made-up reviews of films by a random grammar, three opinions each, of which two or three are good or bad. "
            'One in four is turned by "not", so that words without their order do not tell.'
        ),
        source=SOURCE,
        licence=LICENCE,
    )


WRITERS = {"reviews": write_reviews, "sentences": write_sentences}


def main(arguments: list[str] | None = None) -> None:
    """Write the packaged data set that the command line names."""
    print_anything()
    parser = argparse.ArgumentParser(
        prog="python -m theanompi.data.sources.sentences", description="Make a packaged data set of texts."
    )
    parser.add_argument("name", choices=[name for name in PACKAGED if name in WRITERS])
    parser.add_argument("out", metavar="OUT.h5", help="the file to write")
    args = parser.parse_args(arguments)
    WRITERS[args.name](args.out)
    print(f"{args.out}: {args.name}")


if __name__ == "__main__":
    main()
