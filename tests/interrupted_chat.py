"""A chat that is interrupted again and again, in the middle of whatever it does, for test_interrupted.py.

    python tests/interrupted_chat.py TARGET FOLDER

Says "right" where every answer after an interrupt was what a model that was never disturbed says.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from opened_writer import open_writer, with_template

from edgekit.runtimes.generation import Conversation

ROUNDS = 100
HELLO = [{"role": "user", "content": "one two"}]
MORE = [{"role": "user", "content": "three"}]


def endless(talk: Conversation) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        list(talk.generate([{"role": "user", "content": "x"}], max_new_tokens=60, stream=True))
        talk.messages = talk.messages[:2]


def main(target: str, folder: Path) -> None:
    chatty, chance = with_template(open_writer(folder, target, "llama"), folder), random.Random(0)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    first = Conversation(chatty).generate(HELLO, max_new_tokens=8)
    everything = [*HELLO, {"role": "assistant", "content": first.text}, *MORE]
    wanted = chatty.result(everything, {"max_new_tokens": 8}).ids
    for _ in range(ROUNDS):
        talk = Conversation(chatty)
        talk.generate(HELLO, max_new_tokens=8)
        for _ in range(2):
            with suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.003, 0.02), 8.0)
                endless(talk)
            signal.setitimer(signal.ITIMER_REAL, 0)
        talk.messages = talk.messages[:2]
        talk.save(folder / "chat.state")
        loaded = Conversation(chatty)
        loaded.load(folder / "chat.state")
        found = [each.generate(MORE, max_new_tokens=8).ids for each in (talk.fork(), loaded, talk)]
        assert [chatty.result(everything, {"max_new_tokens": 8}).ids, *found] == [wanted] * 4
    chatty.session.close()
    print("right")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
