#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes short stories, one a line, and reads them back.

    stories.py [--seed N] [--count N]       stories on the standard output
    stories.py --check [--count N]          writes stories, reads them, and compares

Where a story tells who has what, it stays so: see grammar.py and world.py.
"""

import argparse
import itertools
import random
import re
import sys

import grammar as g
import words as w
from world import Person, Thing, World

PRONOUN_SHARE = 0.35
ROLE_SHARE = 0.1
OPENER_SHARE = 0.3
RECENT = 5  # sentences during which nothing is told twice


class Writer:
    """One story after the other from one seed."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def story(self):
        self.world = World(self.rng)
        self.last = []
        self.named_places = set()
        sentences = [self.tell(g.BY_NAME["open"], {})]
        for _ in range(self.rng.randint(8, 18)):
            sentences.append(self.next_sentence(g.EVENTS))
        sentences.append(self.next_sentence([g.BY_NAME[name] for name in g.ENDINGS], 1.0))
        return " ".join(sentence for sentence in sentences if sentence)

    def next_sentence(self, events, least=0.0):
        leads = self.last[-1][0].leads if self.last else {}
        people, things = len(self.world.people), len(self.world.things)
        events = [e for e in events if len(e.people) <= people and len(e.things) <= things]
        weights = [max(e.weight, least) * leads.get(e.name, 1) for e in events]
        while any(weights):
            event = self.rng.choices(events, weights)[0]
            choices = list(self.bindings(event))
            if choices:
                before = set(self.last[-1][1].values()) if self.last else set()
                liking = [1 + 4 * len(before & {s.get("X"), s.get("Y")}) for s in choices]
                return self.tell(event, self.rng.choices(choices, liking)[0])
            weights[events.index(event)] = 0
        return ""

    def bindings(self, event):
        """The ways in which the event can happen now."""
        roles = event.people + event.things
        for who in itertools.permutations(self.world.people, len(event.people)):
            for what in itertools.permutations(self.world.things, len(event.things)):
                slots = dict(zip(roles, who + what))
                if not self.world.complaints(event, slots) and not self.is_recent(event, slots):
                    yield slots

    def is_recent(self, event, slots):
        roles = {r: slots.get(r) for r in event.roles}
        return any(event is e and all(s.get(r) == v for r, v in roles.items() if v)
                   for e, s in self.last[-RECENT:])

    def tell(self, event, slots):
        rng = self.rng
        pattern = rng.choice(event.patterns)
        for role in event.roles:
            if role in "AB" and role not in slots:
                slots[role], slots["role_" + role] = self.new_person()
            if role in "XY" and role not in slots:
                slots[role] = rng.choice([t for t in g.THING_KIND if t not in self.world.things])
        if event.name == "open":
            slots["P"] = rng.choice(list(g.PLACE_AT))
        for name in sorted(set(g.SLOT.findall(pattern)) & g.LISTS.keys()):
            if name not in slots:
                slots[name] = rng.choice(g.LISTS[name])
        if event.name == "weather":
            slots["W"] = rng.choice(list(w.WEATHER))
        if event.name == "hide" and "S" not in slots:
            slots["S"] = rng.choice(g.SPOTS)
        self.slots = slots
        text = g.SLOT.sub(lambda m: self.render(m.group(1)), pattern)
        if g.may_open(event, pattern) and self.last and rng.random() < OPENER_SHARE:
            text = rng.choice(w.OPENERS) + ", " + text
        self.world.apply(event, slots)
        self.last.append((event, slots))
        return g.capital(text)

    def new_person(self):
        taken = {p.role for p in self.world.people.values()}
        role = self.rng.choice([r for r in w.ROLES if r not in taken])
        names = w.WOMEN if self.rng.random() < 0.5 else w.MEN
        return self.rng.choice([n for n in names if n not in self.world.people]), role

    def render(self, slot):
        """The text of one slot."""
        rng, s = self.rng, self.slots
        if slot in ("A", "B", "C", "N"):
            return self.person(slot)
        if slot in ("X", "Y"):
            return f"the {s[slot]}"
        if slot == "newX":
            adjectives = rng.sample(w.THING_ADJECTIVES, 1 + (rng.random() < 0.4))
            return g.article(" ".join(adjectives + [s["X"]]))
        if slot in ("newA", "newB"):
            who = g.article(f"{rng.choice(w.TRAITS)} {s['role_' + slot[3]]}")
            return f"{who} {rng.choice(['named', 'called'])} {s[slot[3]]}"
        if slot in ("P", "toP"):
            return self.place(slot)
        if slot == "aW":
            return g.article(s["W"])
        if slot in ("use", "why"):
            rows = g.USES if slot == "use" else g.REASONS
            text = rng.choice(rows[g.THING_KIND[s["X"]]]).replace("{x}", s["X"])
            return text.replace("{any}", self.somewhere(rng.choice(list(g.PLACE_AT)), 0.6))
        if slot == "any":
            return self.somewhere(rng.choice(list(g.PLACE_AT)), 0.6)
        if slot in g.OF_B or slot in ("he", "his", "him"):
            person = s["B" if slot in g.OF_B else "A"]
            return g.PRONOUNS[g.FEMALE[person]][("he", "his", "him").index(g.OF_B.get(slot, slot))]
        return s[slot]

    def person(self, slot):
        name = self.slots["A" if slot == "N" else slot]
        if slot == "A" and self.world.subject == name and self.rng.random() < PRONOUN_SHARE:
            return g.PRONOUNS[g.FEMALE[name]][0]
        if self.rng.random() < ROLE_SHARE:
            return "the " + self.world.people[name].role
        return name

    def place(self, slot):
        noun = self.slots["P"]
        text = self.somewhere(noun, 0.6 if noun not in self.named_places else 0)
        self.named_places.add(noun)
        return "to" + text[text.index(" "):] if slot == "toP" else text

    def somewhere(self, noun, share):
        """In, at, on or by the place, in `share` of the cases with an adjective."""
        adjective = ""
        if self.rng.random() < share:
            adjective = self.rng.choice(w.PLACE_ADJECTIVES) + " "
        return f"{g.PLACE_AT[noun]} the {adjective}{noun}"


class Reader:
    """Reads a story sentence by sentence, and keeps count of what does not fit."""

    PATTERNS = [(event, pattern, g.compile_pattern(event, pattern)) for event in g.EVENTS
                for pattern in event.patterns]

    def __init__(self):
        self.world = World()

    def read(self, sentence):
        """(event or None when no pattern fits, complaints)"""
        if not sentence or g.capital(sentence) != sentence:
            return None, []
        text = g.plain(sentence)
        for event, pattern, expression in self.PATTERNS:
            match = expression.fullmatch(text)
            if match and self.articles_fit(match.groupdict()):
                return event, self.take(event, match.groupdict())
        return None, []

    def articles_fit(self, found):
        """Whether "a" and "an" stand where they should."""
        texts = [found.get(slot) for slot in ("newA", "newB", "newX")]
        return all(g.article(text.split(" ", 1)[1]) == text for text in texts if text)

    def take(self, event, found):
        """Puts what the sentence says into the world."""
        self.slots, self.wrong = {}, []
        for slot, text in found.items():
            if text is not None and slot in ("newA", "newB"):
                self.slots[slot[3]] = text.split()[-1]
                self.slots["role_" + slot[3]] = text.split()[2]
        for slot, text in found.items():
            if text is not None:
                self.take_slot(event, slot, text)
        self.check_pronouns(found)
        people = [self.slots[r] for r in "ABC" if r in self.slots]
        if len(set(people)) < len(people) or \
                "Y" in self.slots and self.slots["X"] == self.slots["Y"]:
            self.wrong.append("who")
        self.wrong += self.world.complaints(event, self.slots)
        self.world.apply(event, self.slots)
        return self.wrong

    def take_slot(self, event, slot, text):
        if slot in ("A", "B", "C", "N"):
            self.slots["A" if slot == "N" else slot] = self.person(text)
        elif slot in ("X", "Y", "newX", "use"):
            noun = next(word for word in reversed(text.split()) if word in g.THING_KIND)
            if slot == "use":
                noun = next(m for m in re.findall(r"the (\w+)", text) if m in g.THING_KIND)
            self.thing(slot, noun)
        elif slot in ("P", "toP"):
            self.slots["P"] = text.split()[-1]
        elif slot == "aW":
            self.slots["W"] = text.split()[-1]
        elif slot == "why":
            self.slots["why"] = text
        elif slot in g.LISTS:
            self.slots[slot] = text

    def person(self, text):
        people = self.world.people
        if text in g.FEMALE:
            if text not in people:
                self.wrong.append("who")
                people[text] = Person(text, None, None)
            return text
        if text in ("he", "she"):
            fits = [self.world.subject] if self.world.subject else []
            test = [p for p in fits if g.FEMALE[p] == (text == "she")]
        else:
            test = [p.name for p in people.values() if p.role == text[4:]]
        if not test:
            self.wrong.append("who")
            test = list(people) or w.WOMEN[:1]
            people.setdefault(test[0], Person(test[0], None, None))
        return test[0]

    def thing(self, slot, noun):
        if slot == "newX":
            if noun in self.world.things:
                self.wrong.append("has")
        elif noun not in self.world.things:
            self.wrong.append("has")
            self.world.things[noun] = Thing(noun)
        self.slots["Y" if slot == "Y" else "X"] = noun

    def check_pronouns(self, found):
        for slot, text in found.items():
            of = "B" if slot in g.OF_B else "A" if slot in ("he", "his", "him") else None
            if text is None or of is None or of not in self.slots:
                continue
            form = ("he", "his", "him").index(g.OF_B.get(slot, slot))
            if g.PRONOUNS[g.FEMALE[self.slots[of]]][form] != text:
                self.wrong.append("who")
        why = self.slots.get("why")
        if why and not any(re.fullmatch(reason.replace("{any}", g.ANYWHERE), why)
                           for reason in g.REASONS[g.THING_KIND[self.slots["X"]]]):
            self.wrong.append("why")


def split(story):
    """The sentences of a story, and what follows the last full stop."""
    *sentences, rest = story.split(".")
    return [sentence.strip() + "." for sentence in sentences], rest


def differences(story, told, world):
    """What a reader of the story makes of it otherwise than its writer, who told `told` and left
    `world`."""
    reader = Reader()
    for sentence, (event, _) in zip(split(story)[0], told, strict=True):
        got, wrong = reader.read(sentence)
        if got is not event or wrong:
            yield f"{sentence} {event.name} read as {got and got.name}, complaints {wrong}"
    state, read = ([(t.noun, t.holder, t.place, t.spot) for t in w.things.values()]
                   for w in (world, reader.world))
    if state != read:
        yield f"{state} was read as {read}"


def check(seed, count):
    """Reads `count` stories back."""
    writer = Writer(seed)
    for _ in range(count):
        story = writer.story()
        for difference in differences(story, writer.last, writer.world):
            sys.exit(f"{difference}\nin: {story}")
    print(f"{count} stories read back as they were written")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seed", default="0")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        check(args.seed, args.count)
        return
    writer = Writer(args.seed)
    for _ in range(args.count):
        print(writer.story())


if __name__ == "__main__":
    main()
