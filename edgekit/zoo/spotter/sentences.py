"""The sentences of zoo:spotter: made from templates, nouns, names and numbers, each with its spans.

The templates, nouns, names and towns of the testing half are never drawn for training, nor is every second of its
numbers. stdlib only; knows nothing of tokens or labels per token.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from edgekit.zoo.metrics import Span
from edgekit.zoo.words import UNITS, cardinal, held_out, ordinal, year


def _words(text: str) -> list[str]:
    return text.split()


KINDS = {"c": "CARDINAL", "o": "ORDINAL", "y": "YEAR"}
_SLOT = re.compile(r"\{(\w)\}")
_ONSETS = _words("b bl br c ch cl d dr f fl g gr h j k l m n p pl pr qu r s sh sl sp st t tr v w")
_NUCLEI = _words("a e i o u ai ea ee oa ou")
_CODAS = _words("b ck d g l ll m n nd ng nt p r rn rt s sh st x")
_TRAPS = ("a", "second", "seconds", "one", "no", "every", "few")  # without these a trap is no trap

# {c} {o} {y}: a cardinal, an ordinal, a year, in words. {n} {s}: nouns, plural and singular. {p} a person, {t} a town,
# {d} digits, which are no words. "second" as a time, "one" as a pronoun, "hundreds of" and words like "tent" are traps.
TRAINING = """
{p} bought {c} {n} in {t}.
{p} sold {c} {n} and {c} {n}.
There are {c} {n} on the table.
There were only {c} {n} left.
We counted {c} {n} near {t}.
They shipped {c} {n} to {t} in {y}.
In {y}, {p} moved to {t}.
{p} was born in {t} in {y}.
{p} was born in {y} and left {t} in {y}.
Since {y} the {s} has stood in {t}.
By {y} there were {c} {n} in {t}.
Until {y} nobody in {t} had seen a {s}.
The {s} of {y} was better than the one of {y}.
The {o} {s} was broken.
The {o} and the {o} {s} were empty.
{p} came {o} and won a {s}.
{p} finished {o} out of {c}.
On the {o} day {p} found a {s}.
It was the {o} {s} of the year.
This is my {o} {s} from {t}.
Her {o} {s} cost {c} dollars.
His {s} cost {c} dollars and {c} cents.
They paid {c} euros for each {s}.
The price rose from {c} to {c} in a week.
The price fell from {c} dollars to {c} dollars.
Between {c} and {c} {n} were lost.
{c} {n} were found in {t}.
{c} of the {n} came from {t}.
{c} people live in {t}.
More than {c} people saw the {s}.
Fewer than {c} {n} reached {t}.
At least {c} {n} are missing.
About {c} {n} a day pass through {t}.
Nearly {c} {n} and a {s} burned.
Page {c} shows a {s}.
Room {c} is on the {o} floor.
{p} lives on the {o} floor, in room {c}.
Chapter {c} begins with a {s}.
The {o} chapter is about {t}.
{p} is {c} years old.
{p} was {c} when the {s} fell.
At the age of {c}, {p} sold every {s}.
{p} celebrated the {o} birthday with {c} {n}.
For the {o} time, {p} forgot the {s}.
It happened on the {o} of May, {y}.
On the {o} of June {p} left for {t}.
The bridge was opened in {y} and closed in {y}.
{t} had {c} {n} in {y}.
{t} was founded in {y} by {p}.
The war of {y} ruined {t}.
The winter of {y} was the coldest in {c} years.
Back in {y}, a {s} was {c} cents.
From {y} to {y} {p} taught in {t}.
During {y} the {n} doubled.
After {y} no {s} was made.
Give me {c} {n}, please.
Please send {c} {n} and the {o} {s} to {p}.
Did {p} really eat {c} {n}?
Why are there {c} {n} here?
Add {c} and {c}.
{c} plus {c} is {c}.
{c} minus {c} is {c}, said {p}.
Take {c}, {c} and {c}, then add them.
The {n} weigh {c} kilos.
The {s} is {c} miles from {t}.
We drove {c} miles in {c} hours.
The train to {t} leaves in {c} minutes.
Wait a second, where is the {s}?
It took {p} only a second to open the {s}.
The {s} stops after {c} seconds.
{p} waited a few seconds and took the {s}.
Every second counts, said {p}.
Hundreds of {n} were left in the tent.
Thousands of {n} came, but only {c} stayed.
No one in {t} wanted the {s}.
Someone told {p} about the {n} in the stone tent.
{p} often takes the {s} with the most weight.
The {n} and the {n} help one another.
This {s} is heavier than that one.
Nobody had ever seen such {n}.
{p} wrote {d} on the {s}.
{p} sent {d} {n} and {c} {n}.
Line {d} of the list says {c} {n}.
The {s} was sold for {d} dollars in {y}.
No {n}, no {n}, only the {s} of {p}.
My phone is on the {s} near the {n}.
{p}, the {o} king of {t}, died in {y}.
The {o} of the {c} {n} was mine.
In the {o} century {t} was rich.
The {o} prize went to {p}, the {o} to a {s}.
""".strip().split("\n")

TESTING = """
{p} gave {c} {n} to the people of {t}.
We saw {c} {n} in {t}, and {c} more on the way.
{p} left {t} in {y} with {c} {n}.
In {y} the {o} {s} was sold to {p}.
In {t}, {c} {n} were counted in {y}.
The {o} {s} weighs {c} kilos.
{p} took the {o} {s} and {c} {n}.
Only {c} of {c} {n} were found.
{c} {n} were sold between {y} and {y}.
The {s} was made in {y}, in a tent near {t}.
Wait, the {o} {s} is a second away!
{p} was the {o} to leave {t}.
On the {o} day, {c} {n} came to {t}.
Since {y}, {p} has won {c} {n}.
It cost {c} dollars, and the {s} cost {d}.
Hundreds of people saw the {o} {s} of {y}.
No one told {p} that {c} {n} were missing.
Room {d} is empty, but room {c} is not.
The train stops for {c} minutes in {t}.
{p} was {c} in {y} and is {c} now.
Someone often left {n} on the table, said {p}.
For {c} days and {c} hours {p} waited in {t}.
Chapter {c} is about the winter of {y}.
Send the {o} {s} back, but not the {c} {n}.
{c} people were born in {t} in {y}.
""".strip().split("\n")

NOUNS = {
    False: _words("""
        apple anchor basket bell blanket boat bottle bowl box bread brick brush bucket button candle carpet chair
        clock coat coin cup desk door drum egg engine fence flag fork garden glove hammer hat horse jar kettle key
        kite knife ladder lamp lemon letter map mirror nail needle orange oven pan paper pear pen piano pillow pipe
        plate pump ring road rope saddle sail scarf shirt shoe shovel spoon stamp stool sword tent tower truck vase
        violin wagon wheel whistle window
    """),
    True: _words("""
        acorn arrow balloon barrel bicycle bracelet camera canoe compass curtain feather flute goose hinge jacket
        kitten lantern magnet marble notebook parcel pebble pumpkin quilt rocket sandal statue teapot trumpet turnip
        umbrella walnut weathervane sixpence tenor
    """),
}
PEOPLE = {
    False: _words("""
        Anna Bruno Carla David Elena Felix Grace Hanna Ivan Julia Kofi Laura Marco Nadia Oscar Petra Quentin Rosa
        Samir Tessa Ursula Victor Wanda Yusuf Zoe
    """),
    True: _words("""
        Amara Boris Chidi Dolores Edwin Fatima Gustav Ingrid Jorge Keiko Tenzing Nina
    """),
}
TOWNS = {
    False: _words("""
        Aberdeen Basel Cairo Dakar Essen Florence Ghent Haifa Izmir Jena Kyoto Lima Madrid Nantes Oslo Porto Quito
        Riga Seville Turin Utrecht Vienna Warsaw York Zagreb
    """),
    True: _words("""
        Antwerp Bergen Cordoba Dublin Geneva Havana Krakow Lisbon Malmo Toledo Sevenoaks Tenby
    """),
}


@dataclass(frozen=True)
class Sentence:
    text: str
    spans: tuple[Span, ...]


def sentence(rng: random.Random, *, testing: bool, noise: float = 0.0) -> Sentence:
    """A sentence of the training or the testing half of the world.

    `noise` keeps a model from learning the templates by heart: it is how many nouns, names and other words are made up,
    and how often two templates make one text.
    """
    templates = TESTING if testing else TRAINING
    template = rng.choice(templates)
    if rng.random() < noise:
        template = f"{template} {rng.choice(templates)}"
    template = " ".join(_perhaps_made_up(rng, word, noise / 2) for word in template.split())
    text, spans, at = "", [], 0
    for slot in _SLOT.finditer(template):
        text += template[at : slot.start()]
        at, kind = slot.end(), slot[1]
        filling = _number(rng, kind, testing) if kind in KINDS else _word(rng, kind, testing, noise)
        if kind in KINDS:
            spans.append((len(text), len(text) + len(filling), KINDS[kind]))
        text += filling
    text += template[at:]
    return Sentence(text[0].upper() + text[1:], tuple(spans))


def _number(rng: random.Random, kind: str, testing: bool) -> str:
    """A number in words; long and short ones are equally likely, and for testing every second one is held out."""
    wanted = testing and rng.random() < 0.5
    while True:
        n = rng.randrange(1100, 2100) if kind == "y" else int(10 ** rng.uniform(0, 6 if kind == "c" else 3.5))
        if held_out(n) == wanted:
            return {"c": cardinal, "o": ordinal, "y": year}[kind](n)


def _word(rng: random.Random, kind: str, testing: bool, noise: float) -> str:
    """A noun, a name or digits for a slot."""
    if kind == "d":
        return str(rng.randrange(1, 10**5))
    if rng.random() < noise:
        made = _made_up(rng)
        return made.capitalize() if kind in "pt" else made + "s" * (kind == "n")
    if kind in "pt":
        return rng.choice((PEOPLE if kind == "p" else TOWNS)[testing])
    noun = rng.choice(NOUNS[testing])
    return noun if kind == "s" else noun + ("es" if noun.endswith(("x", "s", "sh", "ch")) else "s")


def _perhaps_made_up(rng: random.Random, word: str, noise: float) -> str:
    """`word`, or a word that does not exist; slots and the traps stay."""
    if "{" in word or word.strip(".,!?").lower() in _TRAPS or rng.random() >= noise:
        return word
    return _made_up(rng) + word[len(word.rstrip(".,!?")) :]


def _made_up(rng: random.Random) -> str:
    """A word that does not exist; every second begins like a number, as Tenby and sixpence do."""
    start = rng.choice(_ONSETS) + rng.choice(_NUCLEI)
    if rng.random() < 0.5:
        start = rng.choice(UNITS[1:13])
    middle = "".join(rng.choice(_ONSETS) + rng.choice(_NUCLEI) for _ in range(rng.randrange(2)))
    return start + middle + rng.choice(_CODAS)
