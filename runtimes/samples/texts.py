"""Sample texts to judge a bundle on when the user gives none, for goldens and the gate.

Plain English of many kinds and lengths, written for this purpose. A model for another language or field is better
served by `--calibration FILE`, one input a line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit import limits
from edgekit.bundle import user_files
from edgekit.errors import UsageError

# Of a decoder, whose samples cost most: tokens of a prompt, enough to be read as long ones are, and the fewest prompts.
PROMPT, PROMPTS = 64, 4
MOST = 256  # tokens in all, beyond the fewest prompts

TEXTS = (
    "The delivery arrived two days late, but the driver called ahead and apologised.",
    "Reset the router by holding the small button on its back for ten seconds.",
    "Yes.",
    "In 1969 two people walked on the Moon while a third, Michael Collins, circled above them alone.",
    "I would not recommend this hotel to anyone: the room smelled of smoke and the bed was broken.",
    "Quarterly revenue rose 12.5% to $48.3 million, driven by stronger sales in Europe and Japan.",
    "How do I change the language of my account?",
    "The recipe needs three eggs, a cup of flour, a pinch of salt and, if you have any, fresh basil from the garden; "
    "mix everything slowly, let it rest for half an hour in a cool place, and bake it until the top turns golden.",
    "Dr. Amara Okafor of the University of Lagos published her findings on malaria in March.",
    "Great product, works exactly as described!",
    "The train to Geneva leaves from platform 7 at 18:42.",
    "Naïve café owners in Zürich paid €3,50 for each crème brûlée.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "My left knee hurts when I climb stairs, but running on flat ground is fine.",
    "The court ruled that the contract was void because neither party had signed the second page.",
    "Please cancel my subscription and refund the last payment.",
    "A binary search halves the interval at every step, so it needs about twenty steps for a million items.",
    "It rained all night, and by morning the river had climbed over the lower fields and into the first houses.",
    "Sensor 14 reports 81.2 degrees; the limit is 75.",
    "She laughed, closed the book, and said nothing for the rest of the evening.",
    "Our flight was cancelled without notice and nobody at the desk could help us.",
    "The museum opens at nine on weekdays and at ten on Sundays; entry is free for students.",
    "Interest rates were left unchanged on Thursday, as most economists had expected.",
    "Error 404: the page that you are looking for does not exist.",
    "Water boils at a lower temperature on a mountain than at the sea.",
    "The striker scored twice in the last five minutes and sent the visitors home with nothing.",
    "Wash at thirty degrees with similar colours, do not bleach, do not tumble dry.",
    "Is there a pharmacy open near the station at this hour?",
    "The committee will meet again in Nairobi next spring to vote on the revised proposal.",
    "Honestly the battery is a joke, it barely lasts until lunch.",
    "Copper conducts electricity better than iron, and silver better than copper.",
    "To whom it may concern: I am writing to apply for the position advertised on your website.",
    "The orchestra played the slow movement so quietly that one could hear the rain on the roof.",
    "Turn left after the bridge and follow the signs to the harbour.",
    "Maria Santos joined Contoso in Lisbon after ten years at a bank in São Paulo.",
    "A penny saved is a penny earned.",
    "The patch fixes a memory leak in the parser and makes start-up about a third faster.",
    "What a wonderful surprise, thank you so much for remembering!",
    "Bees find their way home by the position of the sun, even when clouds hide it.",
    "The warranty covers parts and labour for twenty-four months from the date of purchase.",
    "Nobody knew who had left the parcel on the step, or how long it had been there in the snow.",
    "Exports of rice fell for the third month in a row after the government raised the tax.",
    "Charge the device fully before its first use.",
    "The old lighthouse on the northern cape was automated in 1987 and sold to a painter.",
    "I ordered a medium and received a large, but it fits, so I am keeping it.",
    "Vaccination reduced the number of severe cases by more than ninety percent.",
    "He could not decide between the blue coat, which was warm, and the grey one, which was cheap.",
    "Gravity bends light, as the eclipse of 1919 showed.",
)


def read(file: Path, option: str = "--calibration") -> list[str]:
    """The user's own samples: one a line, empty lines left out. `option`: that they came with, for messages.

    Raises UsageError for no file, no text, no samples, and for more than `edgekit.limits` allows.
    """
    data = user_files.read_input(file, limits.CALIBRATION_BYTES, f"give a text file to {option}")
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        hint = "save it as UTF-8, one sample per line"
        raise UsageError(f"{file.name} is not UTF-8 text at byte {error.start}", hint=hint) from error
    for number, line in enumerate(lines, start=1):
        if len(line) > limits.SAMPLE_LETTERS:
            raise UsageError(
                f"line {number} of {file.name} has {len(line)} characters; {limits.SAMPLE_LETTERS} are allowed",
                hint="write one sample per line",
            )
    texts = list(filter(None, lines))
    if not texts:
        raise UsageError(f"{file.name} has no samples", hint="write one sample per line")
    return texts


def prompts(texts: Sequence[str], tokens: Callable[[str], int], least: int) -> list[str]:
    """The texts joined to prompts of at least so many tokens: PROMPTS of them, and more up to MOST tokens in all."""
    found, open_, spent = list[str](), "", 0
    for text in texts:
        open_ = f"{open_} {text}".lstrip()
        if (count := tokens(open_)) < least:
            continue
        if len(found) >= PROMPTS and spent + count > MOST:
            return found
        found.append(open_)
        open_, spent = "", spent + count
    return found or [open_]
