"""Words that decide an answer, in groups of which a question means one. The guard refuses by them."""

from __future__ import annotations

import re


def _groups(text: str) -> list[list[str]]:
    return [group.split() for group in text.replace("\n", " ").split("|")]


# A word of one side asks for the opposite of any word of the other.
OPPOSITES = [
    tuple(frozenset(side.split()) for side in pair.split("/"))
    for pair in (
        "enable activate :on/disable deactivate :off|:in :join/:out :quit|:get/:escape|:back-up/restore|:don/:doff|"
        "recommend recommended eat eating use try include choose/avoid avoided :away|"
        "increase raise boost grow improve :up/decrease lower reduce cut shrink :down|"
        "increasing raising/decreasing lowering reducing|before/after|open/close|start begin/stop end quit|"
        "buy purchase/sell|buying/selling|import/export|importing/exporting|upload/download|uploading/downloading|"
        "add/remove delete|create make/delete destroy|install/uninstall|lock/unlock|accept approve/reject decline deny|"
        "accepting/declining rejecting|allow permit/block forbid ban|mute/unmute|follow/unfollow|send/receive|"
        "minimum min/maximum max|best/worst|cheap cheapest/expensive dearest|highest/lowest|high higher/low lower|"
        "largest biggest/smallest|longest/shortest|oldest/youngest|advantages advantage pros benefits/"
        "disadvantages disadvantage cons drawbacks downsides risks|cause/prevent|gain/lose|gaining/losing|win/lose|"
        "borrow/lend|encrypt/decrypt|encode/decode|compress/decompress|ascending/descending|left/right|north/south|"
        "east/west|inside/outside|indoor/outdoor|hot/cold|summer/winter|morning/evening|weekdays/weekends|"
        "male/female|husband/wife|father dad/mother mom|brother/sister|son/daughter|boy boys/girl girls|man men/woman women|"
        "boyfriend/girlfriend|strong/weak|deep/shallow|love/hate|public/private|internal/external|input/output|"
        "employer/employee|teacher/student|landlord/tenant|debit/credit|asset assets/liability liabilities|profit/loss|"
        "positive/negative|odd/even|legal/illegal|possible/impossible|safe/unsafe dangerous|single/married|"
        "arrive arrival/depart departure leave|entry/exit|push/pull|show/hide|expand/collapse|attach/detach|"
        "connect/disconnect|subscribe/unsubscribe|pass/fail|above/below|over/under|fast faster/slow slower|true/false|"
        "read/write|save earn/spend|eat/avoid|hire/fire|more/less fewer|early/late|on/off|up/down|hardest/easiest|"
        "bigger larger/smaller|older/younger|taller/shorter|better/worse|"
        "with/without"
    ).split("|")
]

# Verbs whose particle turns them round, with what stands between the two, as tokens for OPPOSITES.
_OBJECT = r"(?: (?!(?:and|or|to|on|off|up|down)\b)[^\s.,;:?!]+){0,6}?"
PARTICLES = {
    token: re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)
    for token, pattern in {
        ":on": rf"(?:turn|switch|flip|power)(?:s|p?ed|p?ing)?{_OBJECT} on",
        ":off": rf"(?:turn|switch|flip|power|shut)(?:s|p?ed|p?ing|ting)?{_OBJECT} off",
        ":up": rf"(?:turn|put|bring)(?:s|t?ing|ed)?{_OBJECT} up",
        ":down": rf"(?:turn|put|bring|cut)(?:s|t?ing|ed)?{_OBJECT} down",
        ":don": rf"put(?:s|ting)?{_OBJECT} on",
        ":doff": rf"tak(?:es?|ing){_OBJECT} off",
        ":in": r"(?:log(?:ged|ging)?|sign(?:ed|ing)?|check(?:ed|ing)?|opt(?:ed|ing)?|clock(?:ed|ing)?)[ -]?in(?:to)?",
        ":out": r"(?:log(?:ged|ging)?|sign(?:ed|ing)?|check(?:ed|ing)?|opt(?:ed|ing)?|clock(?:ed|ing)?)[ -]?(?:out|off)",
        ":join": r"sign(?:ed|ing)?[ -]?up",
        ":quit": r"unsubscribe|cancel",
        ":get": r"get(?:ting|s)?(?!(?: \S+){0,3} (?:out|rid|away)\b)",
        ":escape": r"get(?:ting|s)?(?: \S+){0,3}? out of",
        ":back-up": rf"back(?:ing|ed|s)?{_OBJECT} up",
        ":away": r"(?:stay|keep|steer)(?:ing|s)? (?:away|clear|off)|cut(?:ting)? out",
    }.items()
}

# Another member asks for another property of the same thing.
ATTRIBUTES = _groups(
    """population area capital currency president climate flag elevation latitude longitude|height weight age salary|
    price colour color weight|author publisher genre|director cast plot budget|meaning origin pronunciation spelling|
    symptoms causes treatment prevention diagnosis|duration distance|speed range mileage|syllabus eligibility fee fees|
    username password|width length depth height diameter radius circumference|calories protein sugar|
    boiling melting freezing|revenue profit headcount|phone website email|largest tallest longest oldest|smallest shortest youngest"""
)

# A request in another of these is another request, and so is one without any.
LANGUAGES = (
    "english french german spanish italian portuguese dutch polish russian chinese mandarin japanese korean hindi arabic "
    "turkish swedish danish norwegian finnish greek hebrew latin urdu bengali tamil telugu marathi punjabi vietnamese thai"
).split()
CODE_LANGUAGES = (
    "python java javascript typescript golang rust ruby php swift kotlin scala perl haskell matlab sql bash powershell "
    "c# c++ vba lua dart fortran cobol"
).split()
FORMATS = "json xml csv yaml markdown html table bullet bullets haiku poem tweet essay".split()
MONTHS = "january february march april june july august september october november december".split()
WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday".split()

# Spellings of one unit.
UNITS = {
    spelling: group.split()[0]
    for group in (
        "km kilometer kilometers kilometre kilometres kms|mile miles mi|m meter meters metre metres|foot feet ft|"
        "inch inches|cm centimeter centimeters centimetre centimetres|mm millimeter millimeters millimetre millimetres|"
        "yard yards|kg kilogram kilograms kilo kilos kgs|pound pounds lb lbs|g gram grams|ounce ounces oz|stone|"
        "ton tons tonne tonnes|litre liter litres liters|gallon gallons|ml millilitre milliliter millilitres milliliters|"
        "pint pints|cup cups|tablespoon tablespoons tbsp|teaspoon teaspoons tsp|celsius|fahrenheit|kelvin|"
        "second seconds|minute minutes|hour hours|day days|week weeks|month months|year years|decade decades|"
        "dollar dollars usd $|euro euros eur €|pound sterling gbp £|rupee rupees inr ₹|yen jpy ¥|percent % percentage|"
        "byte bytes|kb kilobyte kilobytes|mb megabyte megabytes|gb gigabyte gigabytes|tb terabyte terabytes|"
        "watt watts|kilowatt kilowatts kw|volt volts|acre acres|hectare hectares|mph|kph|knot knots|troy|nautical"
    ).split("|")
    for spelling in group.split()
}
UNITS |= {"pound": "pound", "pounds": "pound"}
# Spellings that are units only beside a number.
AMBIGUOUS_UNITS = frozenset(
    "m foot g stone cup cups yard yards second seconds minute minutes hour hours day days week weeks month months year "
    "years decade decades pound pounds knot knots mi".split()
)

# Symbols whose case is a matter of meaning: a bit is no byte, a milliwatt no megawatt.
CASED_UNITS = frozenset(
    "Kb KB Mb MB Gb GB Tb TB Mbps MBps Gbps GBps mW MW mV MV mA MA mHz MHz mPa MPa mJ MJ mg Mg pA Pa nm Nm".split()
)

NUMBERS = {
    word: str(i)
    for i, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
    if i > 1  # "one" is most often no number
}
NUMBERS |= {"thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "hundred": "100", "thousand": "1000"}
NUMBERS |= {"dozen": "12", "twice": "2", "half": "0.5"}
NUMBERS |= {word: str(i) for i, word in enumerate("third fourth fifth sixth seventh eighth ninth tenth".split(), 3)}

NEGATIONS = frozenset("not no never without neither nor none nobody nothing cannot except excluding non".split())

# Spellings of one name.
ALIASES = {
    "us": "america", "usa": "america", "american": "america", "united": "america", "states": "america",
    "uk": "britain", "british": "britain", "kingdom": "britain", "mt": "mount", "st": "saint", "dr": "doctor",
}  # fmt: skip

# Words that tell a language apart from its neighbours.
STOPWORDS = {
    "en": "the of and is are what how to in do does i my can for on with why which who when a an".split(),
    "fr": "le la les des est que qu quoi comment pourquoi une un du et dans pour je mon ma puis quel quelle".split(),
    "de": "der die das ist was wie warum ein eine und nicht ich mein meine kann mit für wo wer dem den".split(),
    "es": "el la los las es qué que cómo como por una un y en para mi puedo dónde cuál de del".split(),
    "pt": "o os as é que como por uma um e em para meu minha posso onde qual do da não".split(),
    "it": "il lo la gli è che come perché una un e in per mio mia posso dove quale di del non".split(),
    "nl": "de het een is wat hoe waarom en niet ik mijn kan met voor waar wie van".split(),
}
