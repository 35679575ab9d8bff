"""Text that is unkind to a tokenizer: many scripts, code, emoji, combining marks, broken bytes, white space, special tokens.

lines(seed, count, special) gives the same lines for the same arguments on every machine. Only characters of Unicode 14
are used (Debian 12's PCRE2 and Python 3.11 know these; the `tokenizers` package knows newer ones and classes them otherwise).
"""
import random
import unicodedata

SCRIPTS = [(0x61, 0x7a), (0x41, 0x5a), (0xc0, 0x24f), (0x370, 0x3ff), (0x400, 0x4ff), (0x531, 0x587), (0x5d0, 0x5ea), (0x620, 0x64a),
           (0x904, 0x939), (0x985, 0x9b9), (0xb85, 0xbb9), (0xe01, 0xe3a), (0x10a0, 0x10ff), (0x1200, 0x137c), (0x13a0, 0x13f5),
           (0x1780, 0x17b3), (0x1e00, 0x1eff), (0x1f00, 0x1fff), (0x3041, 0x3096), (0x30a1, 0x30fa), (0x4e00, 0x9fa5), (0xac00, 0xd7a3),
           (0xff21, 0xff5a), (0x10400, 0x1044f), (0x1d400, 0x1d7cb), (0x20000, 0x2a6d0)]
MARKS = "\u0300\u0301\u0302\u0308\u030a\u0323\u0327\u0328\u0345\u0591\u05b0\u064b\u0651\u093c\u094d\u0e38\u1ab0\u20dd\u3099\ufe0f\ufe20"
SPACES = [" ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\u00a0", "\u3000", "\u2003", "\u2028", "\u2029", "\u0085",
          "\u200b", "\ufeff", "\u180e", "\u1680", "\u202f", "\v", "\f", "\x1c", "\x1f", "        "]
EMOJI = ["😀", "🎉", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇯🇵🇰🇷", "1️⃣", "#️⃣", "❤️", "☃", "♟︎", "🧑🏿‍🚀", "©", "™", "🫠", "🤷‍♀️", "⌚️"]
SUFFIXES = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'Re", "'vE", "\u2019s", "'\u017f", "'x", "''s", "' s", "'", "n't"]
CODE = ["for (int i = 0; i < n; ++i) {", "    return x[i] * 2;", "}", "def f(self, *args, **kwargs):", "\tif x is not None and y != 'a':", "#include <vector>",
        "std::vector<std::pair<int, float>> v{{1, 2.5f}};", "SELECT * FROM t WHERE a >= 10 AND b LIKE '%x%';", "<div class=\"a b\">&nbsp;</div>",
        "git commit -m \"fix: #123\" && make -j8", "a=b+c-d*e/f%g^h&i|j~k", "http://example.org/a/b?c=d&e=%20#f", "user.name+tag@example.co.uk",
        "0x7fff'ffff_u64", "C:\\Temp\\new\\file.txt", "{\"key\": [1, 2, null, true]}", "// TODO(ab): ...!!!???", "$x = @{$y}->[0];", "λx.x x → ∀y∈ℝ: y²≥0",
        "------------", "================", "/* ** */", "\\frac{a}{b}", "CamelCaseHTTPServerName", "snake_case_name_2", "kebab-case-Name", "i18n", "x86_64"]
ENGLISH = ("the a of and to in was he that it his her as had with for is on but not at be they said from all you she there were one when we them "
           "little morning quick brown fox jumps over lazy dog garden river house mother hedgehog because wonderful understanding").split()


def letter(r, low, high):
    while True:
        c = chr(r.randint(low, high))
        if unicodedata.category(c) != "Cn":
            return c


def script_word(r):
    low, high = r.choice(SCRIPTS)
    return "".join(letter(r, low, high) for _ in range(r.randint(1, 9)))


def number(r):
    kind = r.randrange(7)
    if kind == 0:
        return str(r.randrange(10 ** r.randint(1, 14)))
    if kind == 1:
        return f"{r.randrange(10000)}.{r.randrange(1000)}"
    if kind == 2:
        return f"{r.randrange(10**9):,}"
    if kind == 3:  # digits of other scripts
        zero = r.choice([0x660, 0x966, 0xe50, 0xff10, 0x1d7ce, 0x6f0])
        return "".join(chr(zero + r.randrange(10)) for _ in range(r.randint(1, 7)))
    if kind == 4:
        return "".join(r.choice("½¾²³¹①⑳ⅣⅫ㉈፩௧") for _ in range(r.randint(1, 4)))
    if kind == 5:
        return f"{r.randrange(24):02}:{r.randrange(60):02}-{r.randrange(1900, 2100)}"
    return r.choice(["-", "+", "$", "€", "#", "№", "~"]) + str(r.randrange(100000)) + r.choice(["%", "e-5", "th", "kg", "", "px"])


def anything(r):
    while True:
        c = chr(r.choice([r.randrange(0x80), r.randrange(0x800), r.randrange(0x10000), r.randrange(0x20000), r.randrange(0x110000)]))
        if unicodedata.category(c) not in ("Cn", "Cs"):
            return c


def garbage(r):
    valid = "".join(script_word(r) for _ in range(3)).encode()
    data = bytearray(valid if r.random() < 0.5 else r.randbytes(r.randint(1, 24)))
    for _ in range(r.randint(1, 3)):
        data[r.randrange(len(data))] = r.randrange(256)
    return bytes(data).decode("utf-8", errors="replace")


def marked(r):
    text = "".join(c + "".join(r.choice(MARKS) for _ in range(r.choice([0, 0, 1, 1, 2, 3]))) for c in script_word(r))
    return unicodedata.normalize("NFD", text) if r.random() < 0.5 else text


def special_text(r, special):
    token = r.choice(special)
    kind = r.randrange(6)
    if kind == 0:  # a damaged one
        cut = r.randrange(1, len(token)) if len(token) > 1 else 1
        return token[:cut] + r.choice([" ", "", "|", "x"]) + token[cut:]
    around = ["", " ", "  ", "\n", "x", "é", "7", "_", ".", "\t ", "\u00a0", "\u3000"]
    return r.choice(around) + token + r.choice(around) + (r.choice(special) if kind == 1 else "")


def prose(r):
    words = []
    for _ in range(r.randint(3, 12)):
        w = r.choice(ENGLISH)
        w = r.choice([w, w, w, w.capitalize(), w.upper()])
        words.append(w + (r.choice(SUFFIXES) if r.random() < 0.2 else "") + (r.choice(",.;:!?)-…\"") if r.random() < 0.2 else ""))
    return " ".join(words)


def piece(r, special):
    kind = r.randrange(11)
    if kind <= 1:
        return prose(r)
    if kind == 2:
        return " ".join(script_word(r) for _ in range(r.randint(1, 5)))
    if kind == 3:
        return r.choice(CODE)
    if kind == 4:
        return "".join(r.choice(EMOJI) for _ in range(r.randint(1, 4)))
    if kind == 5:
        return " ".join(marked(r) for _ in range(r.randint(1, 3)))
    if kind == 6:
        return garbage(r)
    if kind == 7:
        return "".join(r.choice(SPACES) for _ in range(r.randint(1, 6)))
    if kind == 8:
        return number(r)
    if kind == 9:
        return special_text(r, special) if special else script_word(r)
    return "".join(anything(r) for _ in range(r.randint(1, 8)))


def lines(seed, count, special=()):
    """`count` lines; `special` are strings of special and added tokens that are mixed into the text."""
    r = random.Random(seed)
    fixed = ["", " ", "  ", "\n", "a", "\u00a0", "\ufffd", "\x00", "\u0301", "'s", " 's", "'\u017f", "\t\n \n  x", "x   ", "   x", "a" * 300, " " * 300 + "b",
             "\n" * 50, "ab" * 150, "1" * 100, "!" * 100, "é" * 60, "e\u0301" * 60, "\u0344", "각", "\u1100\u1161\u11a8", "\u212b\u2126\u212a", "ﬁ", "ẛ̣", *special]
    special = list(special)
    out = fixed[:count]
    while len(out) < count:
        line = ""
        for _ in range(r.choice([1, 1, 1, 2, 2, 3])):
            line += piece(r, special) + r.choice(["", " ", " "] if r.random() < 0.8 else SPACES)
        out.append(line if r.random() < 0.5 else line.rstrip(" "))
    return out
