"""Mathematics typed in Unicode, as the LaTeX it stands for: `5√17`, `10¹²`, `θ`, `６`, `½`."""

from __future__ import annotations

import re
import unicodedata

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau"
    " upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
)
_COMMANDS = {
    **{
        unicodedata.lookup(
            f"GREEK {'CAPITAL' if name[0].isupper() else 'SMALL'} LETTER {spelled.upper()}"
        ): name
        for name in _GREEK.split()
        for spelled in ("LAMDA" if name.lower() == "lambda" else name,)
    },
    **{"ϕ": "phi", "ϵ": "epsilon", "ϑ": "theta", "ς": "sigma", "∆": "Delta", "ħ": "hbar"},
    **{"×": "times", "·": "cdot", "⋅": "cdot", "∙": "cdot", "∞": "infty", "±": "pm", "∓": "mp"},
    **{"≤": "le", "⩽": "le", "≥": "ge", "⩾": "ge", "≠": "ne", "≈": "approx", "≡": "equiv"},
    **{"∪": "cup", "∩": "cap", "∈": "in", "∅": "emptyset", "∖": "setminus", "∀": "forall"},
    **{"∑": "sum", "∏": "prod", "∫": "int", "∂": "partial", "∠": "angle", "△": "triangle"},
    **{
        "⌊": "lfloor",
        "⌋": "rfloor",
        "⌈": "lceil",
        "⌉": "rceil",
        "…": "ldots",
        "∴": "therefore",
        "⇒": "Rightarrow",
        "→": "rightarrow",
    },
}
_CHARACTERS = str.maketrans(
    {character: rf"\{name} " for character, name in _COMMANDS.items()}
    | dict.fromkeys("−–—‐‑‒﹣", "-")
    | dict.fromkeys("÷∕⁄", "/")
    | dict.fromkeys("∗＊", "*")
    | dict.fromkeys("′’", "'")
    | {"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}"}
    | {"°": r"^{\circ}", "º": r"^{\circ}", "℃": r"^{\circ}C", "℉": r"^{\circ}F"}
    | {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
    | {"。": ".", "、": ",", "，": ",", "；": ";", "：": ":", "\u00c5": "angstrom"}
)
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_VULGAR = re.compile("[¼½¾⅐-⅞]")
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₖ"
_SCRIPTS = re.compile(f"[{_RAISED}]+|[{_LOWERED}]+")
_PLAIN_SCRIPTS = str.maketrans(_RAISED + _LOWERED, "0123456789+-()ni0123456789+-()nk")
# What a root sign covers where nothing brackets it: one number, one letter or one command.
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z]|[α-ωΑ-Ω])")
# Behind a number these are units and no variables: 50 Ω, 3.2 µm, also within \text{...}.
_GAP = r"(?<=[\d}])((?:\s|~|\\[,;: ])*+(?:\\[a-z]++\{[\s~]*+)?)"
_MICRO = re.compile(rf"{_GAP}[µμ](?=[A-Za-zΩΩ])")
_OHM = re.compile(rf"{_GAP}([kMum]?)[ΩΩ](?![A-Za-z])")


def to_latex(text: str) -> str:
    """Rewrite every mathematical character of `text` in LaTeX; ASCII stays as it is.

    A root covers the number, letter or bracket that follows it, a run of raised digits is one
    exponent, and full-width letters, digits and punctuation become plain ones. Behind a
    number, `Å`, `µ` and `Ω` are units, spelled `angstrom`, `u` and `ohm`.

    >>> to_latex("5√17 + 2x¹²")
    '5\\\\sqrt{17} + 2x^{12}'
    """
    if not _NON_ASCII.search(text):
        return text
    text = _VULGAR.sub(_fraction, text)
    text = _SCRIPTS.sub(_script, text)
    text = _ROOT.sub(r"\1{\2}", text)
    text = _OHM.sub(r"\1\2ohm", _MICRO.sub(r"\1u", text))
    text = text.translate(_CHARACTERS)
    if _NON_ASCII.search(text):
        text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    return text


def _fraction(match: re.Match[str]) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match.group()).partition("⁄")
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _script(match: re.Match[str]) -> str:
    sign = "^" if match.group()[0] in _RAISED else "_"
    return f"{sign}{{{match.group().translate(_PLAIN_SCRIPTS)}}}"
