"""Units of measurement: what they measure, and what factor lies between two of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

Powers = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    """`factor` times base units with their `powers`, in `scale` (a million), `per` something.

    `per` is what follows "per" or is a word behind a slash: it is often left out. `counted`
    contains the words that are no unit of measurement: 8 apples.
    """

    factor: Fraction = Fraction(1)
    powers: Powers = ()
    scale: Fraction = Fraction(1)
    counted: frozenset[str] = frozenset()
    per: Unit | None = None

    @property
    def whole(self) -> tuple[Fraction, Powers]:
        """Factor and powers with what follows "per"."""
        if self.per is None:
            return self.factor, self.powers
        inverse = tuple((base, -power) for base, power in self.per.powers)
        return self.factor / self.per.factor, _product(self.powers, inverse)


# name and its other spellings = factor and base units. "*" before a name: it takes SI prefixes.
_DEFINITIONS = """
*m = 1 m; meter meters metre metres = 1 m; *g = 1 g; gram grams gramme grammes = 1 g
*s sec secs second seconds = 1 s; min mins minute minutes = 60 s; h hr hrs hour hours = 3600 s
day days = 86400 s; week weeks = 604800 s; month months = 1 month
year years yr yrs = 12 month; decade decades = 120 month; century centuries = 1200 month
*A amp amps ampere amperes = 1 A; *mol mole moles = 1 mol; K kelvin kelvins = 1 K
*Hz hertz = 1 s^-1; *N newton newtons = 1000 m g s^-2; *J joule joules = 1000 m^2 g s^-2
*W watt watts = 1000 m^2 g s^-3; *Pa pascal pascals = 1000 m^-1 g s^-2
*V volt volts = 1000 m^2 g s^-3 A^-1; *C coulomb coulombs = 1 s A
*ohm ohms = 1000 m^2 g s^-3 A^-2; *F farad farads = 1/1000 m^-2 g^-1 s^4 A^2
*T tesla teslas = 1000 g s^-2 A^-1; *H henry henries = 1000 m^2 g s^-2 A^-2
*L *l liter liters litre litres = 1/1000 m^3; cc = 1/1000000 m^3; *eV = 1 eV
*cal calorie calories = 523/125 1000 m^2 g s^-2; *bar bars = 100000000 m^-1 g s^-2
*pc parsec parsecs = 1 pc; AU au = 1 AU; ly = 1 ly; angstrom angstroms = 1/10000000000 m
in inch inches = 127/5000 m; ft foot feet = 381/1250 m; yd yard yards = 1143/1250 m
mi mile miles = 201168/125 m; mph = 201168/450000 m s^-1; kph kmh = 5/18 m s^-1
lb lbs pound pounds = 45359237/100000 g; oz ounce ounces = 45359237/1600000 g
ton tons tonne tonnes = 1000000 g; erg ergs = 1/10000 m^2 g s^-2; acre acres = 1 acre
hectare hectares = 10000 m^2; gallon gallons = 1 gallon; quart quarts = 1/4 gallon
pint pints = 1/8 gallon; USD dollar dollars buck bucks = 1 USD; cent cents = 1/100 USD
EUR euro euros = 1 EUR; GBP = 1 GBP; pence penny pennies = 1/100 GBP; CNY yuan = 1 CNY
jiao = 1/10 CNY; INR rupee rupees Rs = 1 INR; JPY yen = 1 JPY
deg degs degree degrees = 1 deg; rad rads radian radians = 1 rad; am = 1 am; pm = 1 pm
celsius = 1 celsius; fahrenheit = 1 fahrenheit; bit bits = 1 bit; byte bytes = 8 bit
"""
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALES |= {"trillion": 10**12, "dozen": 12, "millions": 10**6, "billions": 10**9}
_SYMBOL_PREFIXES = {"k": 3, "c": -2, "m": -3, "u": -6, "n": -9, "p": -12, "M": 6, "G": 9, "T": 12}
_WORD_PREFIXES = {"kilo": 3, "centi": -2, "milli": -3, "micro": -6, "nano": -9, "mega": 6}
# Symbols that are read as units without a text command: `5 cs` is rather a product.
_PLAIN_SYMBOLS = """
km cm mm um nm us ms kg mg ml mL cc ft lb lbs oz sec hr hrs min mins yr yrs mph kph kmh Hz kHz MHz GHz
kW MW kJ MJ eV keV MeV GeV rad deg Pa kPa MPa AU pc kpc Mpc mA mV kV kN mol ohm kohm uF cal kcal
USD EUR
"""
_PLAIN = frozenset(_PLAIN_SYMBOLS.split())
_OPPOSITES = (
    {"north", "south", "east", "west", "northeast", "northwest", "southeast", "southwest"},
    {"left", "right"},
    {"up", "down", "upward", "downward", "upwards", "downwards"},
    {"clockwise", "counterclockwise", "anticlockwise"},
    {"profit", "gain", "loss"},
    {"increase", "decrease"},
    {"more", "less", "fewer"},
    {"above", "below"},
    {"heads", "tails"},
    {"boys", "girls"},
    {"men", "women"},
)
# Words behind a number that change what is answered, so that they are no unit.
_OTHER_WORDS = """
and or not no but nor if for when where with without except otherwise else maybe wrong false
incorrect unless either than modulo mod sin cos tan cot sec csc arcsin arccos arctan sinh cosh
tanh log ln lg exp sqrt abs gcd lcm det factorial infinity over plus minus times is isn't
"""
_NO_UNIT = frozenset(_OTHER_WORDS.split())
_CHINESE = (
    {"千米": "km", "公里": "km", "厘米": "cm", "毫米": "mm", "分米": "10 cm", "米": "m"}
    | {"千克": "kg", "公斤": "kg", "毫克": "mg", "克": "g", "吨": "ton", "毫升": "mL", "升": "L"}
    | {"秒": "s", "分钟": "min", "小时": "hour", "天": "day", "周": "week", "年": "year"}
    | {"元": "CNY", "角": "jiao", "摄氏度": "celsius", "度": "deg", "平方": "sq ", "立方": "cubic "}
    | {"百万": "million", "万": "wan", "亿": "yi", "美": "", "每": " per "}
)
_SCALES |= {"wan": 10**4, "yi": 10**8}
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_CHINESE_WORD = re.compile("|".join(sorted(_CHINESE, key=len, reverse=True)))
_NEGATED_CJK = re.compile("[不非没無无或和与及除]")
_EXPONENT = r"(?:\s*\^\s*\{?\s*(-?\d)\s*\}?)?"
_WORD = re.compile(rf"([A-Za-z']+|[{CJK}]+){_EXPONENT}")
_PER = re.compile(r"/(?=\s*[A-Za-z]{3})|(?<![A-Za-z])(?:per|each|a|an)(?![A-Za-z])")
_DENOMINATOR = re.compile(r"/\s*\(([^()]*)\)")
_POWER_WORDS = (
    (re.compile(r"(?<![A-Za-z])(?:sq|square)\.?\s+([A-Za-z]+)"), r"\1^2"),
    (re.compile(r"(?<![A-Za-z])(?:cu|cubic)\.?\s+([A-Za-z]+)"), r"\1^3"),
    (re.compile(r"([A-Za-z]+)\s+squared"), r"\1^2"),
    (re.compile(r"([A-Za-z]+)\s+cubed"), r"\1^3"),
)


def _unit_table() -> dict[str, tuple[Fraction, Powers]]:
    table: dict[str, tuple[Fraction, Powers]] = {}
    for definition in re.split(r"[;\n]", _DEFINITIONS.strip()):
        names, meaning = definition.split("=")
        factor, powers = Fraction(1), []
        for word in meaning.split():
            name, _, power = word.partition("^")
            if name[0].isdigit():
                factor *= Fraction(name)
            else:
                powers.append((name, int(power or 1)))
        base = tuple(sorted(powers))
        for name in names.split():
            prefixes = _SYMBOL_PREFIXES if name[0] == "*" else {}
            if not prefixes and len(name) > 3:
                prefixes = _WORD_PREFIXES
            name = name.lstrip("*")
            table[name] = factor, base
            for prefix, exponent in prefixes.items():
                table.setdefault(prefix + name, (factor * Fraction(10) ** exponent, base))
    return table


_TABLE = _unit_table()


_TABLE = _unit_table()


def is_unit_word(word: str) -> bool:
    """Whether a word or symbol is the name of a unit or of a scale: `km`, `hours`, `million`."""
    return word in _SCALES or _meaning(word) is not None


def is_plain_unit_word(word: str) -> bool:
    """Whether bare letters are rather a unit than a product of variables."""
    micro = word[0] == "u" and len(word) == 2
    return word in _PLAIN or ((len(word) > 3 or micro) and is_unit_word(word))


def may_be_unit(text: str) -> bool:
    """Whether words behind a number can be its unit, or what it counts: not `or 7`, `if x > 0`."""
    bare = re.sub(r"\^\s*\{?\s*-?\d\s*\}?", "", _DENOMINATOR.sub(r"/\1", text))
    bare = bare.strip()
    if bare[:1] == "(" and bare[-1:] == ")":  # a remark: (including both ends)
        bare = bare[1:-1]
    if re.search(r"[\d,;:()=<>?$]", bare) or _NEGATED_CJK.search(bare):
        return False
    words = re.findall(r"[A-Za-z']+", bare.lower())
    if words and words[0] in ("squared", "cubed"):
        return False
    return not (_NO_UNIT.intersection(words) or any(word.endswith("n't") for word in words))


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit:
    """Read a unit such as `km`, `m/s^2`, `kg·m s^{-2}`, `dollars per hour`, `square feet of land`.

    What is no unit is kept among the counted words.
    """
    text = _DENOMINATOR.sub(r"/\1", text)
    text = _CHINESE_WORD.sub(lambda match: f" {_CHINESE[match.group()]} ", text)
    for pattern, replacement in _POWER_WORDS:
        text = pattern.sub(replacement, text)
    head, *denominators = _PER.split(text)
    unit = _read_product(head)
    return replace(unit, per=_read_product(" ".join(denominators))) if denominators else unit


def _read_product(text: str) -> Unit:
    """A product of units; those behind a slash are divided by."""
    sides = [_WORD.findall(side) for side in text.replace(r"\cdot", " ").split("/")]
    factor, scale, powers, counted = Fraction(1), Fraction(1), Powers(), set[str]()
    mixed = not all(is_unit_word(word) for side in sides for word, _ in side)
    for sign, side in zip((1, *[-1] * (len(sides) - 1)), sides, strict=True):
        for word, exponent in side:
            meaning = _meaning(word)
            # Among other words a letter or "in" is no unit: `class C`, `in total`.
            if word in _SCALES:
                scale *= _SCALES[word]
            elif meaning is None or (mixed and (len(word) == 1 or word == "in")):
                counted.add(word.lower())
            else:
                power = sign * int(exponent or 1)
                factor *= meaning[0] ** power
                powers = _product(powers, tuple((base, n * power) for base, n in meaning[1]))
    return Unit(factor, powers, scale, frozenset(counted))


def _meaning(word: str) -> tuple[Fraction, Powers] | None:
    return _TABLE.get(word) or (_TABLE.get(word.lower()) if len(word) > 3 else None)


def _product(one: Powers, other: Powers) -> Powers:
    total = dict(one)
    for base, power in other:
        total[base] = total.get(base, 0) + power
    return tuple(sorted((base, power) for base, power in total.items() if power))


def ratio(unit: Unit, other: Unit) -> Fraction | None:
    """How many of `unit` make one of `other`; None where they do not measure the same thing.

    A word that is no unit agrees with every unit, unless both say opposite things (profit and
    loss), and `per hour` may be left out of one of them.
    """
    if any(
        (one := group & unit.counted) and (two := group & other.counted) and not one & two
        for group in _OPPOSITES
    ):
        return None
    scale = other.scale / unit.scale
    (factor, powers), (other_factor, other_powers) = unit.whole, other.whole
    if not powers or not other_powers:
        return scale
    if powers == other_powers:
        return scale * other_factor / factor
    if (unit.per is None) != (other.per is None) and unit.powers == other.powers:
        return scale * other.factor / unit.factor
    return None
