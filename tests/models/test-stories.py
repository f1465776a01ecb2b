#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the reader of models/tiny, which says how good the tiny model's text is: it accepts what
the writer writes, and complains about what does not follow."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "models", "tiny"))
sys.dont_write_bytecode = True

from stories import Reader, Writer, differences, split  # noqa: E402

OPEN = "Once upon a time, a brave baker named Anna lived at the old mill."
MEET = "There she met a kind cook called Tom."
LAMP = "Anna had a small red lamp."

# what: sentences, the complaints about the last one (None: no sentence of the grammar)
CASES = [
    ("a gift", [OPEN, MEET, LAMP, "Anna gave the lamp to Tom."], []),
    ("a gift of a role", [OPEN, MEET, LAMP, "The baker gave the cook the lamp."], []),
    ("a pronoun", [OPEN, MEET, LAMP, "She gave the lamp to Tom."], []),
    ("a gift of another's thing", [OPEN, MEET, LAMP, "Tom gave the lamp to Anna."], ["has"]),
    ("use after the gift", [OPEN, MEET, LAMP, "Anna gave the lamp to Tom.",
                            "Anna held the lamp high."], ["has"]),
    ("a thing that never came up", [OPEN, MEET, "Anna still had the kite."],
     ["has", "has"]),
    ("finding what was lost", [OPEN, LAMP, "Anna lost the lamp.", "Anna found the lamp."], []),
    ("finding it elsewhere", [OPEN, LAMP, "Anna lost the lamp.", "Anna walked to the river.",
                              "Anna found the lamp."], ["has"]),
    ("the wrong hiding place", [OPEN, LAMP, "Anna hid the lamp under the bench.",
                                "Anna found the lamp behind the wall."], ["has"]),
    ("an answer", [OPEN, MEET, LAMP, "\"Where is the lamp?\" asked Tom.",
                   "\"I have it,\" said Anna."], []),
    ("a wrong answer", [OPEN, MEET, LAMP, "\"Where is the lamp?\" asked Tom.",
                        "\"It is with Tom,\" answered Anna."], ["has"]),
    ("a stranger by name", [OPEN, LAMP, "Anna gave the lamp to Tom."], ["who"]),
    ("the wrong pronoun", [OPEN, LAMP, "He held the lamp high."], ["who"]),
    ("a gift to somebody far away", [OPEN, MEET, LAMP, "Tom walked to the river.",
                                     "Anna gave the lamp to Tom."], ["place"]),
    ("a reason for another thing",
     [OPEN, MEET, LAMP, "Tom wanted the lamp because the wind at the mill was cold."], ["why"]),
    ("a wrong article", [OPEN, "Anna had an small red lamp."], None),
    ("a wrong verb", [OPEN, LAMP, "Anna watered the lamp."], None),
    ("no capital", [OPEN, LAMP, "anna lost the lamp."], None),
    ("a capital too many", [OPEN, LAMP, "After a while, The baker lost the lamp."], None),
    ("a word too many", [OPEN, LAMP, "Anna lost the the lamp."], None),
]


def read_all(sentences):
    reader = Reader()
    for sentence in sentences:
        event, wrong = reader.read(sentence)
    return sorted(wrong) if event else None


def main():
    results = [(what, read_all(sentences), want) for what, sentences, want in CASES]
    writer = Writer("test")
    stories = [(writer.story(), list(writer.last), writer.world) for _ in range(200)]
    wrong = [text for story in stories for text in differences(*story)]
    results.append(("200 stories read back", wrong, []))
    results.append(("the same seed", Writer("test").story(), stories[0][0]))
    results.append(("a rest", split("Anna lost it. And")[1].strip(), "And"))
    failed = 0
    for number, (what, got, want) in enumerate(results, 1):
        failed += got != want
        if got != want:
            print(f"# got {got}, expected {want}")
        print(f"{'not ok' if got != want else 'ok'} {number} - stories: {what}")
    print(f"1..{len(results)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
