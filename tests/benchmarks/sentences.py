"""A thousand English sentences made by rule, for measuring text embedding without a data set.

    python tests/benchmarks/sentences.py -n 20

The same `(n, seed, shortest, longest)` gives the same list on every machine. What it must have, so that a figure
measured on it means something:

- lengths like those of search queries and passages: 1 to 60 words, four in five between 5 and 40;
- twelve topics, so that most pairs are far apart and pairs of one topic are near;
- one sentence in five is a paraphrase of an earlier one (other words, other order), so that some pairs are very near;
- numbers, dates, prices, punctuation, capitals, accents, Greek, Japanese, an emoji: what a tokenizer meets;
- no sentence twice.

Knows nothing of models, and needs the standard library only: every contender's interpreter can import it.
"""

from __future__ import annotations

import argparse
import random

# topic: (who), (does), (what), (where or when)
TOPICS: dict[str, tuple[tuple[str, ...], ...]] = {
    "cooking": (
        ("the chef", "my grandmother", "a young baker", "the café owner", "our neighbour"),
        ("slowly roasts", "prepares", "tastes", "seasons", "serves"),
        ("a soup of pumpkin and ginger", "fresh sourdough bread", "crème brûlée", "500 g of wild mushrooms", "dinner"),
        ("in a copper pan", "before the guests arrive", "with olive oil and salt", "at 180 degrees", "every Sunday"),
    ),
    "railways": (
        ("the night train", "a freight train", "the station master", "Swiss Federal Railways", "the conductor"),
        ("leaves for", "reaches", "announces a delay on the line to", "connects", "stops short of"),
        ("Zürich", "the border station", "platform 7", "Kraków and Vienna", "the northern tunnel"),
        ("at 23:47", "two hours late", "because of heavy snow", "with 14 carriages", "on the last day of the month"),
    ),
    "medicine": (
        ("the surgeon", "a nurse on the ward", "Dr. O'Neill", "the patient", "a research team"),
        ("describes", "treats", "recovers from", "carefully monitors", "documents"),
        ("a broken wrist", "high blood pressure", "an allergic reaction", "the side effects of the vaccine", "asthma"),
        ("after the operation", "with 20 mg twice a day", "in a clinical trial", "during the night shift", "at home"),
    ),
    "finance": (
        ("the central bank", "an investor", "the treasurer", "a small company", "the auditor"),
        ("raises", "reports", "sells", "questions", "refinances"),
        ("its quarterly earnings", "interest rates by 0.25 %", "€1,299.50 of shares", "the mortgage", "the budget"),
        (
            "amid rising inflation",
            "before the market opens",
            "for the third year",
            "without notice",
            "on 31 March 2024",
        ),
    ),
    "space": (
        ("the probe", "an astronomer", "the space agency", "a weather satellite", "the rover"),
        ("photographs", "orbits", "discovers", "measures", "sends back data about"),
        ("the moons of Jupiter", "a distant galaxy", "α Centauri", "the surface of Mars", "a solar flare"),
        ("from 400 km above", "after a journey of seven years", "in infrared light", "against all odds", "at dawn"),
    ),
    "software": (
        ("the compiler", "a junior developer", "the on-call engineer", "our team", "the test suite"),
        ("crashes on", "rewrites", "finally fixes", "profiles", "deploys"),
        ("the memory leak", "version 2.13.0", "the payment service", "a race condition in the cache", "main()"),
        ("behind a feature flag", "in less than 50 ms", "with Python and Rust", "on Friday afternoon", "without tests"),
    ),
    "football": (
        ("the goalkeeper", "the home side", "a teenage striker", "the referee", "the coach from São Paulo"),
        ("saves", "wins", "misses", "celebrates", "argues about"),
        ("a late penalty", "the cup final 3-1", "the derby", "an offside goal", "the championship"),
        ("in extra time", "in front of 61,000 fans", "in the pouring rain", "after the break", "for the first time"),
    ),
    "weather": (
        ("a cold front", "the storm", "thick fog", "the heat wave", "a light breeze"),
        ("covers", "moves across", "damages", "surprises", "cools"),
        ("the coast", "the whole valley", "the islands of Ελλάδα", "the harbour", "the wheat fields"),
        ("with gusts of 110 km/h", "until Thursday", "overnight", "at minus 12 °C", "as forecasters had warned"),
    ),
    "music": (
        ("the pianist", "a string quartet", "the choir", "an unknown songwriter", "the drummer"),
        ("rehearses", "records", "improvises on", "performs", "forgets"),
        ("a nocturne by Chopin", "the second movement", "Dvořák's ninth symphony", "an old folk song", "a slow ballad"),
        ("in an empty hall", "at 72 beats per minute", "by heart", "to standing applause", "in a garage studio"),
    ),
    "gardening": (
        ("the gardener", "a retired teacher", "the beekeeper", "our school", "the landscape architect"),
        ("plants", "waters", "prunes", "harvests", "protects"),
        ("twelve rose bushes", "the apple trees", "tomatoes and basil", "a lavender hedge", "the seedlings"),
        ("after the last frost", "in the shade", "with compost", "early in spring", "on the balcony"),
    ),
    "law": (
        ("the judge", "the defendant", "a human rights lawyer", "the supreme court", "the witness"),
        ("rejects", "signs", "appeals against", "explains", "overturns"),
        ("the verdict", "clause 14(b) of the contract", "the patent claim", "a new privacy law", "the settlement"),
        ("behind closed doors", "by five votes to four", "under oath", "within 30 days", "for lack of evidence"),
    ),
    "travel": (
        ("a backpacker", "the tour guide", "my sister", "the cyclist 🚲", "a busload of tourists"),
        ("explores", "falls in love with", "gets lost in", "photographs", "leaves"),
        ("the old town", "東京", "the temples of Kyoto", "a remote mountain village", "the Basque coast"),
        ("with only one bag", "for €35 a night", "during the festival", "without a map", "in late autumn"),
    ),
}
LINKS = (", and", "; meanwhile", ", while", ", although", " because", " — so", ", but", " (as expected):", ", whereas")
OPENINGS = ("According to the report,", "Last year", "“Listen,” she said:", "In short,", "Nobody knew why", "FYI:")
ENDS = (".", ".", ".", ".", "!", "?", "...", "")
OTHER_WORDS = {
    "the": "that", "a": "one", "slowly": "gently", "prepares": "makes", "leaves": "departs", "reaches": "arrives at",
    "describes": "tells of", "treats": "cures", "raises": "increases", "reports": "announces", "sells": "gets rid of",
    "photographs": "takes pictures of", "discovers": "finds", "measures": "gauges", "crashes": "fails",
    "rewrites": "writes anew", "fixes": "repairs", "wins": "takes", "covers": "blankets", "damages": "harms",
    "rehearses": "practises", "performs": "plays", "plants": "puts in", "harvests": "gathers", "rejects": "dismisses",
    "explains": "clarifies", "explores": "wanders through", "old": "ancient", "young": "youthful", "small": "little",
    "fresh": "just-made", "team": "crew", "engineer": "technician", "storm": "tempest", "train": "express",
    "dinner": "supper", "judge": "court", "after": "following", "before": "ahead of", "during": "throughout",
    "because": "since", "while": "as", "but": "yet",
}  # fmt: skip
# A sentence that is cut to its length must not end in one of these.
DANGLING = frozenset({
    "the", "a", "an", "my", "our", "its", "and", "but", "so", "while", "although", "because", "whereas", "—",
    "meanwhile", "(as", "expected):", "of", "in", "on", "at", "by", "to", "for", "from", "with", "without", "during",
    "before", "after", "until", "since", "under", "amid", "against", "within", "across", "behind", "as", "human",
    "supreme", "all",
})  # fmt: skip


def sentences(n: int = 1000, seed: int = 20261122, shortest: int = 1, longest: int = 60) -> list[str]:
    """`n` different sentences of `shortest` to `longest` words (split at blanks), the same for the same arguments."""
    rng = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < n:
        if len(made) > 10 and rng.random() < 0.2:
            text = _paraphrase(rng, rng.choice(list(made)[-200:]))
        else:
            text = _sentence(rng, _length(rng, shortest, longest))
        if shortest <= len(text.split()) <= longest:
            made.setdefault(text)
    return list(made)


def long_texts(n: int = 5, words: int = 3000, seed: int = 20261123) -> list[str]:
    """`n` documents of `words` words each: far beyond what a sentence model reads."""
    rng = random.Random(seed)
    return [_sentence(rng, words) for _ in range(n)]


def _length(rng: random.Random, shortest: int, longest: int) -> int:
    """Log-normal around 16 words, and now and then a bare word or three: four in five lie between 5 and 40."""
    drawn = rng.randint(1, 3) if rng.random() < 0.02 else round(rng.lognormvariate(2.75, 0.75))
    return min(max(drawn, shortest), longest)


def _sentence(rng: random.Random, words: int) -> str:
    topic = TOPICS[rng.choice(list(TOPICS))]
    parts = [rng.choice(OPENINGS)] if words > 8 and rng.random() < 0.25 else []
    text = " ".join([*parts, _clause(rng, topic)])
    while len(text.split()) < words:
        if rng.random() < 0.1:  # now and then the subject changes
            topic = TOPICS[rng.choice(list(TOPICS))]
        text += rng.choice(LINKS) + " " + _clause(rng, topic)
    cut = text.split()[:words] if words > 3 else rng.choice(topic[2]).split()[-words:]
    while len(cut) > 1 and cut[-1] in DANGLING:
        cut.pop()
    said = " ".join(cut).rstrip(",;:")
    return said[:1].upper() + said[1:] + rng.choice(ENDS)


def _clause(rng: random.Random, topic: tuple[tuple[str, ...], ...]) -> str:
    who, does, what, where = (rng.choice(choices) for choices in topic)
    return f"{who} {does} {what} {where}" if rng.random() < 0.8 else f"{who} {does} {what}"


def _paraphrase(rng: random.Random, text: str) -> str:
    """The same statement in other words; where it has two clauses, at times in the other order."""
    words = [OTHER_WORDS.get(word, word) for word in text.rstrip(".!?").lower().split()]
    said = " ".join(words)
    first, comma, second = said.partition(", and ")
    if comma and rng.random() < 0.5:
        said = f"{second}, and {first}"
    return said[:1].upper() + said[1:] + rng.choice(ENDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-n", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--shortest", type=int, default=1, help="words (default: 1)")
    parser.add_argument("--longest", type=int, default=60, help="words (default: 60)")
    args = parser.parse_args()
    print("\n".join(sentences(args.n, args.seed, args.shortest, args.longest)))


if __name__ == "__main__":
    main()
