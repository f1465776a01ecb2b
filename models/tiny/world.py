# SPDX-License-Identifier: MIT
"""What is so in a story: where people are, who has what, who wishes for what.

The needs of an event (see grammar.EVENTS) are methods that get the event's slots and the names of
the slots they speak of. They fill slots that are still open, and return None or a complaint: "has"
(who has what, and where things lie), "who", "place", "why" or "form". A World that reads text is
lenient: it complains once and then believes what it read, so that one slip counts once.
"""

import random

import grammar as g
import words as w


class Person:
    def __init__(self, name, role, place):
        self.name = name
        self.role = role
        self.place = place
        self.female = g.FEMALE[name]


class Thing:
    def __init__(self, noun):
        self.noun = noun
        self.holder = None
        self.place = None
        self.spot = None
        self.giver = self.lender = self.missed_by = self.robbed = None


class World:
    def __init__(self, rng=None):
        self.rng = rng or random.Random(0)
        self.lenient = rng is None
        self.people = {}
        self.things = {}
        self.places = set()
        self.weather_now = None
        self.weathers = 0
        self.wishes_now = set()
        self.denied = set()
        self.asked_now = None
        self.subject = None
        self.over = False

    def complaints(self, event, slots):
        """The needs of the event that do not hold, with open slots filled in."""
        found = []
        for need, *names in event.needs:
            if self.lenient and need != "asked_for" and \
                    any(name in event.roles and name not in slots for name in names):
                found.append("who")
                continue
            wrong = getattr(self, need)(slots, *names)
            if wrong:
                found.append(wrong)
                if not self.lenient:
                    break
        return found

    def apply(self, event, slots):
        self.asked_now = None
        for effect, *names in event.effects:
            getattr(self, "do_" + effect)(slots, *names)
        self.subject = slots.get("A")

    def meet(self, slots, p, want, kind="place"):
        """Fills the open slot p with `want`, or compares."""
        if want is None:
            return None
        if slots.setdefault(p, want) != want:
            return kind
        return None

    # Needs

    def no_people(self, s):
        return "form" if self.people else None

    def few_weathers(self, s):
        return "form" if self.weathers == 2 else None

    def room_for_person(self, s):
        return "form" if len(self.people) == 3 else None

    def room_for_thing(self, s):
        return "form" if len(self.things) == 3 else None

    def is_at(self, s, a, p):
        return self.meet(s, p, self.people[s[a]].place)

    def new_place(self, s, a, p):
        here = self.people[s[a]].place
        if p not in s:
            known = sorted(self.places - {here})
            fresh = not known or self.rng.random() < 0.7
            s[p] = self.rng.choice(list(g.PLACE_AT) if fresh else known)
        return "place" if s[p] == here else None

    def near(self, s, a, b):
        here, there = self.people[s[a]].place, self.people[s[b]].place
        return "place" if here and there and here != there else None

    def apart(self, s, a, b):
        here, there = self.people[s[a]].place, self.people[s[b]].place
        return "place" if here and there and here == there else None

    def has(self, s, a, x):
        thing = self.things[s[x]]
        if thing.holder == s[a]:
            return None
        if self.lenient:
            thing.holder, thing.place, thing.spot = s[a], None, None
        return "has"

    def lacks(self, s, a, x):
        return "has" if self.things[s[x]].holder == s[a] else None

    def apart_from(self, s, x, a):
        return self.lacks(s, a, x)

    def loose(self, s, x):
        return "has" if self.things[s[x]].holder else None

    def lies_near(self, s, x, a):
        place, here = self.things[s[x]].place, self.people[s[a]].place
        return "has" if place and here and place != here else None

    def lies_far(self, s, x, a, p):
        place = self.things[s[x]].place
        if place and place == self.people[s[a]].place:
            return "place"
        return self.meet(s, p, place, "has")

    def lies_far_or_hidden(self, s, x, a, spot):
        thing = self.things[s[x]]
        if spot not in s:
            s[spot] = self.rng.choice(g.SPOTS)
        near = thing.place and thing.place == self.people[s[a]].place
        return "has" if near and (thing.spot is None or thing.spot == s[spot]) else None

    def thing_at(self, s, x, p):
        thing = self.things[s[x]]
        return "has" if thing.holder else self.meet(s, p, thing.place, "has")

    def in_spot(self, s, x, spot):
        thing = self.things[s[x]]
        return self.meet(s, spot, thing.spot, "has") if thing.spot else "has"

    def no_spot(self, s, x):
        return "has" if self.things[s[x]].spot else None

    def lent_by(self, s, x, b):
        return None if self.things[s[x]].lender == s[b] else "has"

    def giver_is(self, s, x, b):
        return None if self.things[s[x]].giver == s[b] else "has"

    def missed_by(self, s, x, a):
        return None if self.things[s[x]].missed_by == s[a] else "has"

    def wishes(self, s, a, x):
        return None if (s[a], s[x]) in self.wishes_now else "why"

    def wishes_not(self, s, a, x):
        return "why" if (s[a], s[x]) in self.wishes_now and not self.lenient else None

    def wanted_by(self, s, x, a):
        pair = s[a], s[x]
        robbed = self.things[s[x]].robbed == s[a]
        return None if robbed or pair in self.wishes_now or pair in self.denied else "why"

    def weather_is(self, s, weather, feeling):
        if self.weather_now is None:
            return "why"
        wrong = self.meet(s, weather, self.weather_now, "why")
        fitting = w.WEATHER[s[weather]]
        if feeling not in s:
            s[feeling] = self.rng.choice(fitting)
        return wrong or (None if s[feeling] in fitting else "why")

    def company(self, s, a):
        here = [p for p in self.people.values() if p.place == self.people[s[a]].place]
        return "place" if len(here) < 2 else None

    def asked_for(self, s, x, a):
        if not self.asked_now:
            return "has"
        noun, who = self.asked_now
        return self.meet(s, x, noun, "has") or ("who" if s[a] == who else None)

    def other(self, s, a, b):
        return "who" if s[a] == s[b] else None

    # Effects

    def do_person(self, s, a):
        self.people[s[a]] = Person(s[a], s["role_" + a], None)

    def do_at(self, s, a, p):
        self.people[s[a]].place = s.get(p)
        self.places.add(s.get(p))

    def do_with(self, s, a, b):
        self.people[s[a]].place = self.people[s[b]].place

    def do_weather(self, s, weather, time):
        self.weather_now = s[weather]
        self.weathers += 1

    def do_thing(self, s, x):
        self.things[s[x]] = Thing(s[x])

    def do_gets(self, s, x, a):
        thing = self.things.setdefault(s[x], Thing(s[x]))
        thing.holder, thing.place, thing.spot = s[a], None, None
        thing.giver = thing.lender = thing.missed_by = thing.robbed = None
        self.wishes_now.discard((s[a], s[x]))
        self.denied.discard((s[a], s[x]))

    def do_giver(self, s, x, a):
        self.things[s[x]].giver = s[a]

    def do_lender(self, s, x, a):
        self.things[s[x]].giver = self.things[s[x]].lender = s[a]

    def do_robbed(self, s, x, b):
        self.things[s[x]].robbed = s[b]

    def do_lies(self, s, x, a):
        thing = self.things[s[x]]
        thing.holder, thing.place, thing.spot = None, self.people[s[a]].place, None

    def do_lies_at(self, s, x, p):
        thing = self.things[s[x]]
        thing.holder, thing.place, thing.spot = None, s.get(p), None
        self.places.add(s.get(p))

    def do_spot(self, s, x, spot):
        self.things[s[x]].spot = s.get(spot)

    def do_missed(self, s, x, a):
        thing = self.things[s[x]]
        thing.giver = thing.lender = thing.robbed = None
        thing.missed_by = s[a]

    def do_wishes(self, s, a, x):
        self.wishes_now.add((s[a], s[x]))

    def do_done_with(self, s, b, x):
        self.wishes_now.discard((s[b], s[x]))
        self.denied.add((s[b], s[x]))

    def do_asked(self, s, x, a):
        self.asked_now = s[x], s[a]

    def do_answered(self, s):
        self.asked_now = None

    def do_the_end(self, s):
        self.over = True
