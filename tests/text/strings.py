# SPDX-License-Identifier: MIT
"""Texts that try a tokenizer: everyday ones, random ones, and such as are meant to break it.
Used by make-tokenizers.py and compare-hf.py; the same seed gives the same texts.

    strings.py [VERSION]   lists the code points that are left out
"""

import functools
import random
import subprocess
import sys

UNICODE = "14.0"  # of PCRE2 10.42

WORDS = """the a of and to in is was it for on with as at by from that this but not are were be
been have has had which when where who what there their they she he we you I his her our your one
two three ten hundred thousand first last day night morning evening year time people man woman
child children house river mountain valley city village road bridge garden tree apple bread water
fire wind snow rain summer winter spring autumn small large old new young red green blue white
black warm cold bright dark quick slow went came saw gave took made said asked told found lost
kept held carried opened closed walked running talking reading writing because therefore however
although before after under over between through without around against machine memory kernel
stream buffer graph token model vector matrix queue signal process thread daemon client server
device latency throughput measurement benchmark don't can't it's we'll they've I'm you'd she's
Paris London Berlin Tokyo Maria Peter Anna Hans int float return struct while static const void
printf include define null pointer index count length offset error value result""".split()

FOREIGN = """Die Katze schläft unter dem grünen Tisch und träumt von Mäusen.
Größe, Straße, Übermut und Äpfel: Wörter mit Umlauten.
Le garçon a mangé une pomme près de la forêt où l'été s'achève.
El niño corrió mañana por la montaña; ¿dónde está el río?
Съешь ещё этих мягких французских булок, да выпей чаю.
Вчера мы ходили в лес и видели большую белую птицу.
Η γάτα κοιμάται κάτω από το τραπέζι όλη μέρα.
今日はとても良い天気ですね。明日も晴れるでしょう。
我们昨天去了公园，看到了很多花和树。
오늘은 날씨가 아주 좋습니다. 내일도 맑을 것입니다.
وصلت الرسالة في الصباح الباكر من المدينة البعيدة.
הילד הלך אל הבית הישן ליד הנהר.
आज मौसम बहुत अच्छा है और बच्चे खेल रहे हैं।
วันนี้อากาศดีมาก เด็กๆ เล่นอยู่ในสวน
Hôm nay trời đẹp, chúng tôi đi dạo quanh hồ.
Bugün hava çok güzel, İstanbul'da ışıklar parlıyor.""".split("\n")

SPACES = [
    " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\r", "\v", "\f", "\u00a0", "\u3000", "\u2009",
    "\u200b", "\u180e", "\u2028", "\x85", "\x1c", "\u1680", "\ufeff", "        ", " \n ", "\n \n",
]
ODD = [
    "'s", "'S", "'t", "'RE", "'ve", "'LL", "'\u017f", "\u2019s", "'d", "''", "'", "\u212a",
    "\u0130", "\u0131", "\u00df", "\u1e9e", "\ufb01", "\u01c5", "\u2160", "\u00b2", "\u00bd",
    "\u0660\u0661", "\u096f", "\U0001d7d8", "\u0301", "\u0323\u0301", "\u0301\u0323", "e\u0301",
    "\u00e9", "a\u0323\u0307", "\u1100\u1161\u11a8", "\uac01", "\u0f71\u0f72", "\u03a9", "\u2126",
    "\u212b", "\u2581", "\u2581\u2581", "\u2581a", "a\u2581b", "<0x0A>", "<0xE2>", "<unk>", "<s>",
    "</s>", "<pad>", "\x00", "\x01", "\x7f", "\ufffd", "\ufffe", "\U0010ffff", "\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f3fd", "\u200d",
    "\u00ad", "_", "__init__", "-", "--", "...", "\u2026", "\u3002", "0", "007", "12345678901",
    "3.14", "1e-9", "0x1F", "{", "}", "[]", "()", "\\", "\"", "`", "#", "$", "%", "&&", "\u0149",
    "\u1f80", "\u0345", "\u3042\u3099", "\u304c", "\uff21\uff42\uff13", "\u32bf", "\ufdfa",
    "\u00c5", "A\u030a",
]
MARKS = "\u0301\u0308\u0323\u0327\u0328\u0345\u05b0\u05bc\u064b\u0651\u3099\u1161\u11a8\u093c"
ALIKE = [
    "a", "A", " ", "\n", "0", "7", "\u0301", "\u4e00", "\U0001f600", "\u2581", "ab", "'s", "!",
    "\u00e9", "=", " \n", "\u0e01",
]


def known_ranges(version):
    """The code points that this version of Unicode, or one before it, has assigned. Perl knows."""
    script = r"""
        my $start;
        for my $c (0 .. 0x110000) {
            my $in = $c < 0x110000 && !($c >= 0xd800 && $c < 0xe000) &&
                chr($c) =~ /\p{Present_In: %s}/ && chr($c) !~ /\p{Noncharacter_Code_Point}/;
            if ($in && !defined $start) { $start = $c }
            if (!$in && defined $start) { print "$start ", $c - 1, "\n"; undef $start }
        }""" % version
    lines = subprocess.run(["perl", "-e", script], stdout=subprocess.PIPE, check=True).stdout
    return [tuple(map(int, line.split())) for line in lines.splitlines()]


@functools.lru_cache(None)
def known(version):
    return [c for low, high in known_ranges(version) for c in range(low, high + 1)]


class Strings:
    """special: texts of the tokenizer's own added tokens, which are mixed in. version: the newest
    Unicode whose code points may be picked."""

    def __init__(self, seed, special=(), version=UNICODE):
        self.r = random.Random(seed)
        self.known = known(version)
        # Half of all picks are from scripts that people write; the rest from all of them.
        self.common = [c for c in self.known if c < 0x3100]
        self.special = list(special) or ["<s>"]

    def word(self):
        word = self.r.choice(WORDS)
        style = self.r.random()
        if style < 0.1:
            return word.upper()
        return word.capitalize() if style < 0.25 else word

    def sentence(self):
        words = [self.word() for _ in range(self.r.randint(1, 12))]
        if self.r.random() < 0.3:
            number = self.r.randint(0, 10 ** self.r.randint(1, 8))
            words.insert(self.r.randrange(len(words)), str(number))
        return " ".join(words) + self.r.choice(["", ".", "!", "?", ",", ";", "...", ".\n", " "])

    def foreign(self):
        text = self.r.choice(FOREIGN)
        start = self.r.randrange(len(text))
        return text[start:start + self.r.randint(1, 30)]

    def ascii(self):
        return "".join(chr(self.r.randint(32, 126)) for _ in range(self.r.randint(1, 30)))

    def controls(self):
        return "".join(chr(self.r.randint(0, 127)) for _ in range(self.r.randint(1, 16)))

    def unicode(self):
        pool = self.common if self.r.random() < 0.5 else self.known
        return "".join(chr(self.r.choice(pool)) for _ in range(self.r.randint(1, 16)))

    def run(self):
        return self.r.choice(ALIKE) * self.r.choice([1, 2, 3, 7, 8, 9, 31, 32, 33, 34, 40, 100])

    def marks(self):
        text = self.r.choice("aeou\u0391\u0430\u05d0\u304b\u1100")
        return text + "".join(self.r.choice(MARKS) for _ in range(self.r.randint(1, 8)))

    def part(self):
        kind = self.r.random()
        if kind < 0.2:
            return self.r.choice(SPACES)
        if kind < 0.4:
            return self.r.choice(ODD)
        if kind < 0.55:
            return self.r.choice(self.special)
        if kind < 0.6:
            token = self.r.choice(self.special)
            return token[:self.r.randint(0, len(token))]
        if kind < 0.75:
            return self.word()
        return self.r.choice([self.foreign, self.ascii, self.unicode, self.run, self.marks,
                              self.controls])()

    def mixed(self):
        return "".join(self.part() for _ in range(self.r.randint(1, 8)))

    def text(self):
        kind = self.r.random()
        if kind < 0.2:
            return self.sentence()
        if kind < 0.5:
            return self.mixed()
        return self.r.choice([self.foreign, self.ascii, self.unicode, self.run, self.marks,
                              self.controls, self.mixed, self.mixed])()

    def document(self, size):
        """Everyday text of about this many bytes."""
        parts = []
        length = 0
        while length < size:
            part = self.foreign() + " " if self.r.random() < 0.1 else self.sentence() + " "
            if self.r.random() < 0.1:
                part += "\n\n"
            parts.append(part)
            length += len(part.encode())
        return "".join(parts)


if __name__ == "__main__":
    version = sys.argv[1] if len(sys.argv) > 1 else UNICODE
    print(f"left out: not assigned in Unicode {version}")
    end = 0
    for low, high in known_ranges(version) + [(0x110000, 0x110000)]:
        if low > end:
            print(f"{end:04X}-{low - 1:04X}")
        end = high + 1
