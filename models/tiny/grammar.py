# SPDX-License-Identifier: MIT
"""The grammar of the stories: what can happen, how it is told, and what it needs and changes.

An Event has patterns (how it may be told), needs (what must hold before it) and effects (what
holds after it). The generator picks events whose needs hold in the World; the parser recognises
the patterns and holds the same needs against what the text said before.

Slots of a pattern: {A} {B} {C} a person as a name, as "the baker", or, for {A}, as a pronoun when
the person was the subject of the sentence before; {N} is {A} without pronouns; {X} {Y} a thing
("the kite"), {newX} one that appears ("a small red kite"), {newA} {newB} a person who appears
("a brave baker named Anna"); {he} {his} {him} follow {A}; the rest are in SLOTS.
"""

import re

import words as w

THING_KIND = {noun: kind for kind, row in w.THINGS.items() for noun in row[0].split()}
PLACE_AT = {noun: prep for prep, nouns in w.PLACES.items() for noun in nouns.split()}
USES = {kind: row[1] for kind, row in w.THINGS.items()}
REASONS = {kind: row[2] for kind, row in w.THINGS.items()}
FEMALE = {**dict.fromkeys(w.WOMEN, True), **dict.fromkeys(w.MEN, False)}
SPOTS = [f"{side} the {noun}" for side in w.SPOT_SIDES for noun in w.SPOTS]
WEATHER_FEELINGS = sorted({feeling for row in w.WEATHER.values() for feeling in row})
PRONOUNS = {True: ("she", "her", "her"), False: ("he", "his", "him")}


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def one_of(choices):
    return "(?:" + "|".join(re.escape(c) for c in choices) + ")"


# The slots that any word of a list may fill: free colour, or (weather, spot, ...) remembered.
LISTS = {
    "adv": w.ADVERBS, "glad": w.GLAD, "sad": w.SAD, "move": w.MOVES, "errand": w.ERRANDS,
    "relative": w.RELATIVES, "seller": [article(s) for s in w.SELLERS], "number": w.NUMBERS,
    "span": w.SPANS, "time": w.TIMES, "season": w.SEASONS, "S": SPOTS, "W": list(w.WEATHER),
    "aW": [article(x) for x in w.WEATHER], "wfeel": WEATHER_FEELINGS,
}
PERSON = one_of(w.ROLES)
NAME = one_of(w.WOMEN + w.MEN)
THING = one_of(THING_KIND)
PLACE_WORDS = f"the (?:{one_of(w.PLACE_ADJECTIVES)} )?"
ANYWHERE = "(?:" + "|".join(f"{prep} {PLACE_WORDS}{one_of(nouns.split())}"
                            for prep, nouns in w.PLACES.items()) + ")"
SLOTS = {
    **{name: one_of(words) for name, words in LISTS.items()},
    "P": ANYWHERE,
    "toP": f"to {PLACE_WORDS}{one_of(PLACE_AT)}",
    "B": f"(?:{NAME}|the {PERSON})", "C": f"(?:{NAME}|the {PERSON})",
    "X": f"the {THING}", "Y": f"the {THING}",
    "newX": f"an? {one_of(w.THING_ADJECTIVES)} (?:{one_of(w.THING_ADJECTIVES)} )?{THING}",
    "newA": f"an? {one_of(w.TRAITS)} {PERSON} (?:named|called) {NAME}",
    "use": one_of([u.replace("{x}", noun) for noun, kind in THING_KIND.items()
                   for u in USES[kind]]),
    "why": "(?:" + "|".join(sorted({r.replace("{any}", ANYWHERE) for row in REASONS.values()
                                    for r in row})) + ")",
    "any": ANYWHERE,
    "he": "(?:he|she)", "his": "(?:his|her)", "him": "(?:him|her)",
}
SLOTS["newB"] = SLOTS["newA"]
SLOT = re.compile(r"\{(\w+)\}")


class Event:
    def __init__(self, name, needs, effects, *patterns, weight=1.0, leads=None):
        self.name = name
        self.needs = [need.split() for need in needs.split(", ") if need]
        self.effects = [effect.split() for effect in effects.split(", ") if effect]
        self.patterns = patterns
        self.weight = weight
        self.leads = leads or {}
        rows = self.needs + self.effects + [SLOT.findall(pattern) for pattern in patterns]
        self.roles = sorted({role.replace("N", "A") for row in rows for role in row} & set("ABCXY"))
        new = {effect[1] for effect in self.effects if effect[0] in ("person", "thing")}
        self.people = [role for role in self.roles if role in "ABC" and role not in new]
        self.things = [role for role in self.roles if role in "XY" and role not in new]


# Needs and effects are methods of world.World, their first words the methods' names.
EVENTS = [
    # People and places
    Event("open", "no_people", "person A, at A P",
          "Once there was {newA} who lived {P}.",
          "Once upon a time, {newA} lived {P}.",
          "Long ago, {newA} worked {P}.",
          "{P} there lived {newA}.",
          "There was once {newA}, whose home was {P}.",
          "{P} there once worked {newA}.", weight=0),
    Event("weather", "few_weathers", "weather W time",
          "It was {aW} {season} {time} {any}.", "The {season} {time} was {W} {any}.", weight=0.35),
    Event("meet", "is_at A P, room_for_person", "person B, with B A",
          "There {A} met {newB}.", "{A} met {newB} there.", "{P} {A} met {newB}.",
          "{A} was talking to {newB} {P}.", "{A} shared {his} lunch with {newB} {P}.",
          "{A} asked the way, and {newB} helped {him}.", weight=3.0,
          leads={"want": 4, "ask_for": 4}),
    Event("go", "new_place A P", "at A P",
          "{A} {move} {toP}.", "{A} {move} {toP} to {errand}.",
          "{A} had to {errand}, so {he} {move} {toP}.",
          "{A} {adv} {move} {toP}.", weight=0.8),
    Event("go_with", "has A X, new_place A P", "at A P",
          "{A} {move} {toP} with {X}.", "{A} carried {X} {toP}.",
          "{A} took {X} and {move} {toP}.", weight=0.7),
    Event("go_together", "near A B, new_place A P", "at A P, at B P",
          "{A} and {B} {move} {toP} together.", "{A} {move} {toP}, and {B} came along.",
          "{A} and {B} {move} {toP} to {errand}.", weight=0.7),
    Event("visit", "apart A B", "with A B",
          "{A} went to see {B}.", "{A} {move} back to {B}.",
          "{A} paid {B} a visit.", "{A} missed {B} and went to see {him_B}.", weight=1.5),

    # Things appear
    Event("own", "is_at A P, room_for_thing", "thing X, gets X A",
          "{A} had {newX}.", "{A} owned {newX}, a gift from {his} {relative}.",
          "{A} carried {newX} in {his} bag.", "{A} had borrowed {newX} from {his} {relative}.",
          "{A} was proud of {newX} that {he} had.", "{A} had {newX} with {him}.", weight=2.0,
          leads={"use": 3, "want": 3}),
    Event("find_new", "is_at A P, room_for_thing", "thing X, gets X A",
          "{S} {A} found {newX}.", "{A} found {newX} {S}.", "{P} {A} found {newX}.",
          "While {he} was resting {P}, {N} found {newX}.",
          "{A} {adv} picked up {newX} {S}.", weight=1.5, leads={"glad_have": 3}),
    Event("buy", "is_at A P, room_for_thing", "thing X, gets X A",
          "{A} bought {newX} for {number} coins.", "{A} bought {newX} from {seller}.",
          "{P} {A} bought {newX}.", "{A} paid {seller} {number} coins for {newX}.", weight=1.0,
          leads={"use": 3, "glad_have": 2}),
    Event("see_new", "is_at A P, room_for_thing", "thing X, lies X A",
          "{A} saw {newX} {P}.", "{A} noticed {newX} that nobody had claimed.", weight=0.6,
          leads={"pick_up": 6}),

    # Wishes
    Event("want", "lacks A X, wishes_not A X", "wishes A X",
          "{A} wanted {X} because {why}.", "{A} wished for {X} because {why}.",
          "{A} needed {X} because {why}.", "{A} dreamed of {X}, for {why}.", weight=1.0,
          leads={"give_wish": 9, "lend": 4, "refuse": 4, "trade": 4}),
    Event("ask_for", "has B X, near A B, wishes_not A X", "wishes A X",
          "{A} asked {B} for {X} because {why}.", "{A} begged {B} for {X}, for {why}.",
          "\"May I have {X}?\" {N} asked {B}.", "\"I need {X} because {why},\" {N} told {B}.",
          "{A} asked whether {B} could spare {X}.", weight=1.0,
          leads={"give_wish": 9, "lend": 5, "refuse": 6, "trade": 5}),

    # Things change hands
    Event("give", "has A X, near A B", "gets X B, giver X A",
          "{A} gave {X} to {B}.", "{A} {adv} gave {X} to {B}.", "{A} gave {B} {X}.",
          "{A} handed {X} to {B}.", "{A} made {B} a present of {X}.",
          "{A} let {B} keep {X}.", "{A} {adv} offered {X} to {B}, and {B_he} took it.",
          weight=0.8, leads={"thank": 8, "glad_given": 6, "now_has": 2}),
    Event("give_wish", "has A X, near A B, wishes B X", "gets X B, giver X A",
          "{A} gave {X} to {B} because {B_he} needed it.",
          "{A} pitied {B} and {adv} gave {B_him} {X}.",
          "\"You may have {X},\" {N} told {B}.",
          "{A} knew what {B} wished for and {adv} gave {B_him} {X}.",
          "{A} saw that {B} needed {X} and gave it away.", weight=2.0,
          leads={"thank": 8, "glad_given": 6, "use": 2}),
    Event("lend", "has A X, near A B", "gets X B, lender X A",
          "{A} lent {X} to {B} for {span}.", "{A} lent {B} {X}.",
          "{A} let {B} borrow {X} for {span}.",
          "\"You may borrow {X} for {span},\" {N} told {B}.", weight=0.6,
          leads={"thank": 5, "give_back": 6, "use": 3}),
    Event("give_back", "has A X, lent_by X B, near A B", "gets X B, giver X A",
          "{A} gave {X} back to {B}.", "{A} returned {X} to {B}.",
          "{A} {adv} brought {X} back to {B}.", "{A} kept {his} word and returned {X} to {B}.",
          weight=3.0, leads={"glad_have": 4}),
    Event("trade", "has A X, has B Y, near A B", "gets X B, gets Y A",
          "{A} gave {B} {X} in return for {Y}.", "{A} traded {X} for {Y} with {B}.",
          "{A} offered {X} for {Y}, and {B} agreed.",
          "{A} {adv} gave {X} away and got {Y} from {B}.", weight=2.0,
          leads={"glad_have": 3, "now_has": 3}),
    Event("take", "has B X, near A B", "gets X A, robbed X B",
          "{A} stole {X} from {B}.", "{A} grabbed {X} from {B}.",
          "{A} {adv} took {X} from {B}.", weight=0.4, leads={"sad_other": 9, "now_has": 2}),
    Event("refuse", "has A X, wishes B X", "done_with B X",
          "{A} would not give {X} to {B}.", "{A} said no to {B} and kept {X}.",
          "{A} needed {X} and did not give it to {B}.",
          "\"I cannot give you {X},\" {N} told {B}.", weight=2.0, leads={"sad_other": 9}),

    # Things get lost, hidden and found
    Event("lose", "has A X", "lies X A, missed X A",
          "{A} lost {X}.", "{A} {adv} dropped {X}.",
          "{A} lost {X} in a hurry.", "{A} forgot {X}.",
          weight=0.6, leads={"sad_lost": 7, "search": 5, "pick_up": 5}),
    Event("hide", "has A X", "lies X A, spot X S, missed X A",
          "{A} hid {X} {S}.", "{A} put {X} {S}.", "{A} {adv} left {X} {S}.",
          "{A} trusted nobody and hid {X} {S}.", weight=0.7,
          leads={"search": 3, "take_out": 5, "where": 3}),
    Event("thief", "has A X, new_place A P", "lies_at X P, missed X A",
          "{seller} stole {X} from {N} and left it {P}.",
          "A storm carried {X} away from {N}, and it landed {P}.", weight=0.35,
          leads={"sad_lost": 7, "fetch": 6}),
    Event("pick_up", "loose X, lies_near X A, no_spot X", "gets X A",
          "{A} picked up {X}.", "{A} took {X} from the ground.",
          "{A} found {X}.", "{A} {adv} picked up {X}.", weight=3.0,
          leads={"glad_have": 4, "give": 3}),
    Event("take_out", "loose X, lies_near X A, in_spot X S", "gets X A",
          "{S} {A} found {X}.", "{A} {adv} took {X} from {S}.",
          "{A} found {X} {S}.", weight=3.0, leads={"glad_have": 3, "give": 3}),
    Event("fetch", "loose X, lies_far X A P, no_spot X", "at A P, gets X A",
          "{A} {move} {toP} and found {X}.", "{A} {move} {toP} to fetch {X}.", weight=2.5,
          leads={"glad_have": 4, "give": 3}),
    Event("search", "loose X, lies_far_or_hidden X A S", "",
          "{A} looked for {X} {S} but did not find it.",
          "{A} searched {S}, but {X} was not there.", weight=0.5,
          leads={"take_out": 5, "fetch": 5}),

    # What it leads to
    Event("use", "has A X", "", "{A} {use}.", "{A} {adv} {use}.", "{A} {use} for {span}.",
          weight=1.0),
    Event("thank", "has A X, giver_is X B", "",
          "{A} thanked {B} for {X}.", "\"Thank you for {X},\" {N} told {B}.",
          "{A} {adv} thanked {B} for {X}.", "{A} was {glad} and thanked {B} for {X}.", weight=0.5),
    Event("glad_have", "has A X", "",
          "{A} was {glad} because {he} had {X}.", "{A} felt {glad} with {X}.",
          "{A} {adv} danced around {X}.", weight=0.5),
    Event("glad_given", "has A X, giver_is X B", "",
          "{A} was {glad} because {B} had given {him} {X}.",
          "{A} felt {glad} to get {X} from {B}.", weight=0.5),
    Event("sad_other", "has B X, wanted_by X A", "",
          "{A} was {sad} because {B} had {X}.",
          "{A} felt {sad} that {B} had {X}.", weight=0.8),
    Event("sad_lost", "loose X, missed_by X A", "",
          "{A} was {sad} because {X} was gone.", "{A} missed {X} and felt {sad}.",
          "{A} {adv} cried for {X}.", weight=0.6),
    Event("feel_weather", "weather_is W wfeel", "",
          "{A} felt {wfeel} because it was so {W}.",
          "It was so {W} that {A} felt {wfeel}.", weight=0.3),
    Event("now_has", "has A X", "",
          "Now {A} had {X}.", "So {A} had {X}.", "Now {X} belonged to {N}.", weight=0.3),
    Event("still_has", "has A X", "",
          "{A} still had {X}.", "{A} took good care of {X}.", "{A} kept {X} close to {him}.",
          weight=0.3),
    Event("has_both", "has A X, has A Y", "",
          "Now {A} had both {X} and {Y}.", "{A} had {X} and also {Y}.", weight=0.5),
    Event("still_lies", "thing_at X P, no_spot X", "",
          "{X} was still {P}.", "Nobody saw {X}, which lay {P}.", weight=0.3,
          leads={"fetch": 5, "pick_up": 5}),
    Event("where", "apart_from X A, company A", "asked X A",
          "\"Where is {X}?\" asked {N}.", "\"Has anyone seen {X}?\" asked {N}.", weight=0.5,
          leads={"answer_me": 4000, "answer_other": 4000, "answer_spot": 4000}),
    Event("answer_me", "asked_for X A, has A X", "answered",
          "\"I have it,\" said {N}.", "\"It is with me,\" answered {N}.", weight=0.01),
    Event("answer_other", "asked_for X A, has B X, other A B", "answered",
          "\"{B} has it,\" said {N}.", "\"It is with {B},\" answered {N}.", weight=0.01),
    Event("answer_spot", "asked_for X A, loose X, in_spot X S", "answered",
          "\"It is {S},\" said {N}.", "\"Look {S},\" answered {N}.", weight=0.01,
          leads={"take_out": 8}),

    # Endings
    Event("end_home", "has A X", "the_end",
          "{A} showed {X} to {his} {relative} {any}.",
          "{A} put {X} {S} and slept {any}.",
          "{A} kept {X} for {number} years {any}.", "{A} took {X} home {any}.", weight=0),
    Event("end_two", "has A X, has B Y", "the_end",
          "In the end {A} kept {X}, and {B} kept {Y}.",
          "And so {A} went home with {X}, and {B} with {Y}.", weight=0),
    Event("end_friends", "near A B", "the_end",
          "{A} and {B} were friends {any} for {number} years.",
          "{A} and {B} had supper {any}.", weight=0),
]
BY_NAME = {event.name: event for event in EVENTS}
ENDINGS = ["end_home", "end_two", "end_friends"]
# {B_he} and so on are pronouns that follow B.
OF_B = {"B_he": "he", "B_his": "his", "B_him": "him", "him_B": "him"}


def may_open(event, pattern):
    """Whether "After a while," and the like may stand before the sentence."""
    return pattern.startswith("{A}") and event.name not in ENDINGS


def capital(text):
    """The sentence with its first letter capital, also behind a quotation mark."""
    at = 1 if text[0] == '"' else 0
    return text[:at] + text[at].upper() + text[at + 1:]


def plain(text):
    """The sentence without the capital that only its position gives it."""
    at = 1 if text[0] == '"' else 0
    word = re.match(r"\w*", text[at:]).group()
    return text if word in FEMALE else text[:at] + text[at:at + 1].lower() + text[at + 1:]


def compile_pattern(event, pattern):
    """A pattern as a regular expression that matches a plain() sentence."""
    subject = f"(?:{NAME}|the {PERSON}|he|she)"
    if not pattern.startswith("{"):
        pattern = plain(pattern)
    parts, seen, at = [], set(), 0
    for slot in SLOT.finditer(pattern):
        name = slot.group(1)
        inner = subject if name == "A" else SLOTS["B"] if name == "N" else \
            SLOTS[OF_B.get(name, name)]
        parts.append(re.escape(pattern[at:slot.start()]))
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{inner})")
        seen.add(name)
        at = slot.end()
    parts.append(re.escape(pattern[at:]))
    opener = ""
    if may_open(event, pattern):
        opener = f"(?:{one_of(map(plain, w.OPENERS))}, )?"
    return re.compile(opener + "".join(parts))
