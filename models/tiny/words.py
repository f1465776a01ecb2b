# SPDX-License-Identifier: MIT
"""The words of the stories. Every name, noun, adjective and so on stands in one list only where
the grammar needs to tell them apart; nearly all of them become one token each."""

WOMEN = """
Ada Agnes Alma Amber Amelia Anita Anna Ariel Astrid Aurora Bella Bess Betty Bridget Carla Carmen
Carol Cecilia Celia Cora Dana Daphne Delia Della Dina Dora Doris Edith Edna Elena Elise Ella Ellen
Elsa Elsie Emily Emma Erica Esme Esther Fern Flora Freda Frieda Gemma Gina Gloria Grace Gwen Hannah
Heidi Helen Helga Hilda Holly Ida Ines Iris Isabel Ivy Jane Janet Jasmine Jenny Joan Joanna Josie
Julia June Kate Katia Kira Lara Laura Lena Leona Lila Linda Lotte Louise Lucia Lucy Mabel Magda
Maria Marta Mary Matilda Mia Mila Mina Mira Molly Mona Nancy Nell Nina Nora Olga Olive Penny Petra
Polly Rita Rosa Rosie Ruby Sally Sara Selma Stella Tamara Tess Tilda Tina Vera Viola Willa Wilma
Zara Zelda Zoe
""".split()

MEN = """
Aaron Abel Adam Adrian Alan Albert Alec Alfred Amos Andrew Anton Archie Arnold Arthur Axel Barney
Basil Ben Bert Boris Byron Caleb Calvin Carl Casper Cecil Cedric Conrad David Dexter Edmund Edward
Edwin Elias Elliot Emil Eric Floyd Frank Fred Giles Graham Gus Harold Harry Hector Herbert Homer
Hubert Hugh Ian Igor Ivan Ivor Jack Jasper Jesse Jim Joel Jonas Josef Julian Julius Karl Keith Kevin
Kurt Lars Laurence Leo Leon Leonard Louis Lucas Ludwig Luke Marcus Mario Martin Maurice Max Miles
Nathan Ned Nelson Nigel Oliver Omar Oscar Otis Owen Pablo Paul Peter Philip Ralph Ramon Rex Richard
Robert Robin Roland Rufus Samuel Saul Silas Stephen Sven Tim Toby Tom Tristan Vincent Wilfred
Winston
""".split()

ROLES = """
baker farmer miller tailor weaver potter painter singer dancer teacher doctor sailor soldier
gardener shepherd hunter cook clerk judge guard pilot poet piper barber butcher carpenter mason
printer jeweller cobbler fiddler juggler clown wizard knight merchant pedlar ferryman fisher
librarian student dentist postman captain beekeeper blacksmith glazier
""".split()

TRAITS = """
brave clever kind quiet cheerful gentle lazy busy proud shy careful curious patient stubborn
friendly lonely young old tall short thin merry polite greedy generous sleepy noisy serious funny
poor rich humble thoughtful restless nervous bold dreamy grumpy modest
""".split()

THING_ADJECTIVES = """
red blue green yellow white black brown grey golden silver purple orange pink small large tiny
heavy light round long wide narrow smooth rough shiny dusty clean dirty plain pretty fine strange
rare common simple splendid lovely ugly perfect faded striped spotted strong soft curious beautiful
precious cheap famous magic foreign handsome elegant charming remarkable ordinary
""".split()

# Kind: its nouns, what a person who has {x} does with it, and why a person would like to have it.
THINGS = {
    "music": ("flute drum fiddle harp trumpet horn bell whistle guitar banjo",
        ["played a tune on the {x}", "practised a song on the {x}"],
        ["the feast {any} had no music", "the children {any} liked to dance"]),
    "light": ("lamp lantern candle torch",
        ["lit the {x}", "held the {x} high"],
        ["the nights {any} were long", "the cellar {any} was dark"]),
    "tool": ("hammer shovel spade axe saw rake broom ladder rope hoe chisel crowbar",
        ["worked hard with the {x}", "dug a hole with the {x}"],
        ["the fence {any} was broken", "the roof {any} had a hole", "there was work to do {any}"]),
    "toy": ("kite ball doll puppet marble balloon sled puzzle rattle hoop",
        ["played with the {x}", "showed a trick with the {x}"],
        ["the afternoons {any} were dull", "the children {any} had no toys"]),
    "clothing": ("hat cap coat scarf cloak shawl apron belt jacket sweater",
        ["tried on the {x}", "wore the {x}"],
        ["the wind {any} was cold", "the winter {any} was coming"]),
    "food": ("apple pear cake pie loaf melon pumpkin cabbage turnip peach sausage biscuit",
        ["smelled the {x}", "took a bite of the {x}"],
        ["there was nothing to eat {any}", "the kitchen {any} was empty"]),
    "vessel": ("cup jug bowl kettle basket bucket bottle jar pot barrel pitcher",
        ["filled the {x}", "washed the {x}"],
        ["the well was far away {any}", "the guests {any} were thirsty"]),
    "treasure": ("ring coin pearl crown necklace brooch medal locket bracelet mirror shell feather",
        ["polished the {x}", "held up the {x}"],
        ["it was famous {any}", "the merchants {any} liked it"]),
    "paper": ("book map letter diary painting notebook scroll atlas postcard",
        ["studied the {x}", "showed the {x} around"],
        ["the teachers {any} praised it", "nobody {any} had one"]),
    "travel": ("compass tent saddle telescope blanket pillow umbrella suitcase",
        ["packed the {x}", "tested the {x}"],
        ["the journey began {any}", "the travellers {any} had none"]),
    "craft": ("needle ribbon brush pencil pen button stamp ruler",
        ["worked with the {x}", "cleaned the {x}"],
        ["the old one was lost {any}", "the tailors {any} had none"]),
    "plant": ("rose tulip lily violet cactus sunflower pansy orchid",
        ["watered the {x}", "put fresh soil around the {x}"],
        ["the garden {any} was bare", "the room {any} was plain"]),
    "animal": ("kitten puppy rabbit duckling hamster turtle canary parrot lamb goat",
        ["fed the {x}", "stroked the {x}"],
        ["the house {any} was lonely", "the children {any} wanted a friend"]),
}

PLACES = {
    "at": "mill market inn school station castle bakery farm library museum harbour theatre palace"
          " hospital shop circus zoo fair temple church mine quarry dairy forge pond well"
          " crossroads lighthouse fountain gate",
    "in": "forest meadow village garden valley cave barn orchard park city cellar attic tower"
          " desert jungle vineyard kitchen workshop stable swamp courtyard cabin tavern",
    "by": "river lake sea bridge waterfall canal stream",
    "on": "hill island mountain beach road square ferry terrace",
}
PLACE_ADJECTIVES = """
old new little great empty crowded distant hidden ancient noisy peaceful royal stone wooden sunny
shady northern southern eastern western upper lower lonely busy
""".split()

SPOTS = """
bench wall tree door table chair stove bush rock stairs cupboard hedge log haystack curtain bed
wagon carpet chimney fence pile statue counter shelf
""".split()
SPOT_SIDES = ["under", "behind", "beneath"]

MOVES = """walked ran went hurried rode wandered strolled marched returned travelled rushed
""".split()
ERRANDS = [f"{verb} {noun}" for verb in """
buy sell fetch bring count collect deliver paint steal weigh borrow clean
""".split() for noun in """
bread eggs water wood milk flowers wool salt fish corn honey stones shoes candles nails books
butter paper leather soap
""".split()]

ADVERBS = """gladly quickly slowly quietly proudly softly kindly calmly gently carefully happily
secretly politely eagerly bravely finally suddenly soon simply patiently
""".split()

OPENERS = """After a while|After lunch|That afternoon|That evening|The next day|The next morning
A little later|An hour later|Before long|At noon|At last|By and by|In the end|Two days later
Three days later|A week later|At sunset|At dawn|Later that day|As usual|To everyone's surprise
Without a word|With a smile|With a sigh|All at once|Once again|A moment later|Before supper
""".replace("\n", "|").strip("|").split("|")

# What the weather is like, and how one feels because of it.
WEATHER = {
    "sunny": ["cheerful", "warm"], "warm": ["cheerful", "lazy"], "bright": ["cheerful", "lively"],
    "rainy": ["gloomy", "wet"], "stormy": ["afraid", "uneasy"], "windy": ["cold", "uneasy"],
    "snowy": ["cold", "lively"], "frosty": ["cold", "stiff"], "foggy": ["uneasy", "gloomy"],
    "cloudy": ["gloomy", "sleepy"], "hot": ["thirsty", "lazy"], "misty": ["uneasy", "sleepy"],
}
TIMES = "morning afternoon evening day".split()
SEASONS = "spring summer autumn winter".split()

GLAD = """happy glad delighted pleased thankful joyful content overjoyed relieved excited
""".split()
SAD = """sad angry upset unhappy worried jealous miserable bitter disappointed cross
""".split()

RELATIVES = """mother father sister brother aunt uncle grandmother grandfather cousin neighbour
godmother nephew niece
""".split()
SELLERS = """stranger traveller tinker trader beggar monk nun duke countess sailmaker
""".split()
NUMBERS = "two three four five six seven eight nine ten eleven twelve twenty thirty forty".split()
SPANS = """a day|a week|a month|an hour|the weekend|the winter|the summer|one night
""".replace("\n", "|").strip("|").split("|")
