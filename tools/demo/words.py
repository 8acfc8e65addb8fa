"""The words that the demo model's world is made of.

Plain tuples, no logic.  `facts.py` and `tasks.py` draw from them; the tokenizer is trained on text
made of them, so most become one token.
"""

COLOURS = (
    "red blue green yellow black white brown grey orange purple pink silver golden violet copper ivory"
).split()

OBJECTS = (
    "door box gate chest drawer cabinet locker safe window garage suitcase bag desk shed cellar tower "
    "bridge boat lamp clock mirror basket bottle wagon barrel closet kitchen attic library office vault "
    "engine table chair piano ladder curtain fountain bench lantern"
).split()

NAMES = (
    "Anna Ben Clara David Emma Felix Greta Henry Ida Jonas Karin Leo Maria Noah Olga Paul Rosa Simon Tina "
    "Victor Wanda Yusuf Zoe Alice Bruno Carla Diego Elena Frank Hanna Ivan Julia Laura Martin Nina Oscar "
    "Petra Robert Sara Thomas"
).split()

CITIES = (
    "Paris London Berlin Madrid Rome Vienna Prague Oslo Dublin Lisbon Athens Warsaw Zurich Geneva Hamburg "
    "Munich Milan Naples Porto Seville Krakow Tokyo Delhi Cairo Lima Boston Chicago Toronto Sydney Nairobi"
).split()

ANIMALS = (
    "cat dog horse tiger rabbit eagle whale otter fox wolf bear owl heron beaver badger salmon turtle "
    "donkey camel parrot"
).split()

FRUITS = "apple pear plum cherry lemon mango grape melon peach fig apricot orange".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

THINGS = (
    "river stone cloud forest meadow candle hammer needle pepper butter button carpet pillow blanket "
    "feather marble paper pencil ribbon rocket saddle shovel thunder ticket trumpet valley velvet winter "
    "summer spring autumn island harbour market garden village mountain ocean desert shadow"
).split()
