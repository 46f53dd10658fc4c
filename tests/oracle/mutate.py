#!/usr/bin/env python3
"""Makes a hostile corpus from real JSON Lines, the same for the same seed.

    mutate.py SOURCE_DIR OUT_DIR [--seed N] [--lines N]

SOURCE_DIR holds .jsonl shards of good documents (id, text, title, url, domain, quality_prob, word_count).
OUT_DIR, which must be empty or absent, gets one shard for each kind of trouble, a shard `mixed` with all of
it shuffled among good lines, N randomly mutated real lines, and everything around the shards that an export
must skip or put up with. Most of the lines are wrong on purpose: export with `--max-reject-ratio 1`.
Needs `zstandard`.
"""

import argparse
import gzip
import json
import random
import sys
from pathlib import Path

import zstandard

BOM = b"\xef\xbb\xbf"
MAPPED = ("text", "title", "url", "domain", "quality_prob", "word_count")
WHITE = list(map(chr, [
    *range(0x09, 0x0E), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
    0x2028, 0x2029, 0x202F, 0x205F, 0x3000]))
NOT_WHITE = list("\u180e\u200b\u200c\u2060\ufeff\u00ad\u0084\u0086\u2027\u202a\u202e\u2030\u205e\u3001\u167f\x7f\x1b\x21\x08")
JSON_BLANKS = ["", " ", "\t", "\r", "  ", " \t\r ", " " * 17, "\t" * 64]
EDGES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 30, 31, 32, 33, 47, 48, 62, 63, 64, 65, 66, 95, 96, 127, 128, 129, 255, 256, 257)

LEGAL_NUMBERS = [
    "0", "-0", "0.0", "-0.0", "1", "-1", "10", "1e5", "1E5", "1e+5", "1E-5", "1e-7", "0e0", "0E+00", "1.0e007", "123.456",
    "1E400", "-1E400", "1e-400", "1e99999999999999999999", "9007199254740993", "9223372036854775807", "9223372036854775808",
    "-9223372036854775808", "18446744073709551615", "18446744073709551616", "9" * 40, "0." + "3" * 400, "1" + "0" * 400,
    "0.8", "8e-1", "80E-2", "0.80", "0.8000000000000000444", "0.79999999999999993", "0.7999999999999999999999",
    "0.79999999999999998889776975", "0.79999999999999998", "0.6", "6e-1", "0.59999999999999997", "0.5999999999999999",
    "0.59999999999999992228", "0.60000000000000001", "2", "1.7976931348623157e308", "1.7976931348623159e308", "4.9e-324"]
ILLEGAL_NUMBERS = [
    "01", "-01", "00", "1.", "-1.", ".5", "-.5", "+1", "-", "--1", "0x1", "0X1F", "1_000", "1,000", "1e", "1e+", "1E-", "1.e5",
    "1.5.5", "1e5.5", "1ee5", "e5", "- 1", "1 2", "1f", "1L", "0b1", "0o7", "1/2", "$1", "1%", "NaN", "-NaN", "nan", "Infinity",
    "-Infinity", "+Infinity", "inf", "\u0661", "1\u0660", "\uff11", "1\u00a0", "1\x00", "1a", "0-1", "1-", "0123456789", "-00.1", "1e\u0661"]
ILLEGAL_VALUES = [
    "", "True", "False", "None", "undefined", "nul", "nulll", "tru", "truee", "TRUE", "falsey", "'a'", "`a`", "a", "[", "]", "{", "}",
    "[1", "[1,", "[1,]", "[,1]", "[,]", "[1 2]", "[1]]", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":1,}', "{,}", '{"a" 1}', '{"a"::1}',
    '{"a":1 "b":2}', "{1:2}", "{a:1}", '{"a"}', "{null:1}", "[1}", '{"a":1]', '"a" "b"', '"a""b"', '"', '"\\"', '"\\', ":", ",", ";",
    "1;", "/**/1", "1/**/", "//", "#", "\\u0022a\\u0022", '\u201ca\u201d', '\uff02a\uff02', "\ufeff1", "1\u2028", "\x0b1", "1\x0c", "\u00a01", "\u20281"]
ILLEGAL_STRINGS = [  # between the quotes
    "\\x41", "\\u12G4", "\\u12", "\\u", "\\u+123", "\\u 123", "\\u-123", "\\u1_23", "\\u{41}", "\\U00000041", "\\a", "\\0", "\\v", "\\'", "\\e",
    "\\ ", "\\", "a\\", "\\\\\\", "\\\u00e9", "\\u\uff10\uff10\uff14\uff11", "\\ud83d\\u", "\\ud83d\\ude0", "\\ud83d\\x", "a\tb", "a\rb", "a\x0bb",
    "\x01", "\x08", "\x0c", "\x1b", "\x1e", "\x1f", 'a"b', '"', '\\\\"a']
LEGAL_STRINGS = [
    '\\"', "\\\\", "\\/", "\\b\\f\\n\\r\\t x", "\\u0041", "\\u00e9\\u00E9", "\\u002F\\u005c\\u0022", "/", "\x7f", "\u0080", "\u2028\u2029 x",
    "\u0085x\u0085", "\\u0001", "\\u001f.", "\ufffe\uffff", "\ufdd0", "\U0001fffe\U0010ffff", "\\ufffe\\uffff", "\\udbff\\udfff", "\\ud800\\udc00",
    "\\uD83D\\uDE00", "\\ud83D\\uDe00", "e\u0301", "\\\\u0041", "\\\\\\u0041", "\\\\\\\\u0041", "\\\\ud800", "{}[]:,", "{" * 3000, "[" * 3000, "'", "`"]
LONE_SURROGATES = [
    "\\ud800", "\\udbff", "\\udc00", "\\udfff", "\\uD83D", "\\uDE00", "\\ude00\\ud83d", "\\ud83d\\ud83d", "\\ude00\\ude00",
    "\\ud83d\\ud83d\\ude00", "\\ud83d\\ude00\\ude00", "\\ud83d\\ude00\\ud83d", "\\ud83d \\ude00", "\\ud83d\\\\ude00", "\\ud83d\\n\\ude00",
    "\\ud83d\\u0041", "\\u0041\\ude00", "\\ud83d\\ue000", "\\ud7ff\\udc00", "\\ud83dude00", "\\\\ud83d\\ude00", "\U0001f600\\ude00", "\\ud83d\U0001f600"]
INVALID_UTF8 = [
    b"\x80", b"\xbf", b"\x80\x80", b"\xc0\x80", b"\xc0\xaf", b"\xc1\xbf", b"\xe0\x80\x80", b"\xe0\x80\xaf", b"\xe0\x9f\xbf", b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf", b"\xed\xa0\x80", b"\xed\xaf\xbf", b"\xed\xb0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80", b"\xf7\xbf\xbf\xbf", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xfe", b"\xff", b"\xff\xfe", b"\xc2", b"\xdf",
    b"\xe2", b"\xe2\x82", b"\xef\xbb", b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98", b"\xc2\xc2\x80", b"\xe2\x28\xa1", b"\xe2\x82\x28", b"\xf0\x28\x8c\xbc",
    b"\xf0\x90\x28\xbc", b"\xf0\x9f\x98\x28", b"\xc3\xa9\xa9", b"\xe2\x82\xac\x80", b"\xf0\x9f\x98\x80\x80", b"\xf1\x80\x80\xe2\x82\xac"]
VALID_UTF8 = [
    b"\x7f", b"\xc2\x80", b"\xdf\xbf", b"\xe0\xa0\x80", b"\xec\xbf\xbf", b"\xed\x80\x80", b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbb\xbf",
    b"\xef\xbf\xbd", b"\xef\xbf\xbf", b"\xf0\x90\x80\x80", b"\xf0\xbf\xbf\xbf", b"\xf1\x80\x80\x80", b"\xf3\xbf\xbf\xbf", b"\xf4\x8f\xbf\xbf"]
SCRIPTS = [  # first and last code point of a stretch of letters
    (0x41, 0x5A), (0xC0, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x587), (0x5D0, 0x5EA), (0x620, 0x64A), (0x710, 0x72F), (0x904, 0x939),
    (0x985, 0x9B9), (0xB85, 0xBB9), (0xE01, 0xE3A), (0xF40, 0xF6C), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137F), (0x13A0, 0x13F5),
    (0x1780, 0x17B3), (0x1820, 0x1877), (0x2010, 0x2064), (0x2100, 0x23FF), (0x3041, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xF8FF),
    (0xFB50, 0xFDFF), (0xFF01, 0xFFEF), (0x10000, 0x100FA), (0x1D400, 0x1D7FF), (0x1F300, 0x1F6FF), (0x20000, 0x2A6DF), (0x10FF00, 0x10FFFD)]


# ---- building lines ----------------------------------------------------------------------------------

def encode(piece):
    return piece if isinstance(piece, bytes) else piece.encode("utf-8")


def line(*members):
    """An object of (key source, value source) pairs, as they are."""
    return b"{" + b",".join(encode(key) + b":" + encode(value) for key, value in members) + b"}"


def string(inner):
    return b'"' + encode(inner) + b'"'


def with_text(inner, *more):
    return line(('"text"', string(inner)), *more)


def with_field(key, value):
    """A sound document but for one member (`value` is its source)."""
    members = {"text": '"some sound text"', "title": '"T"', "quality_prob": "0.7", "word_count": "3", key: value}
    return line(*((f'"{name}"', source) for name, source in members.items()))


def escaped(text):
    """Every character as \\uXXXX, the astral ones as surrogate pairs."""
    units = text.encode("utf-16-be")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02X}" for n in range(0, len(units), 2))


def good(number):
    return json.dumps({"id": number, "text": f"A good document, the {number}th of its kind.", "title": f"Good {number}",
                       "domain": ("web", "books", "code")[number % 3], "quality_prob": number % 100 / 100, "word_count": 8}).encode()


# ---- one function for each kind of trouble -------------------------------------------------------------

def numbers(rng):
    for number in LEGAL_NUMBERS + ILLEGAL_NUMBERS:
        for key in ("word_count", "quality_prob", "unmapped", "text"):
            yield with_field(key, number)
        yield with_field("unmapped", f"[{number}]")
        yield with_field("unmapped", f'{{"a": {number} }}')
        yield encode(number)
        yield encode(f" {number} ")
    for number in LEGAL_NUMBERS[:8]:
        for blank in JSON_BLANKS:
            yield with_field("word_count", blank + number + blank)


def huge_numbers(rng):
    for digits in (309, 310, 1000, 4300, 4301, 20000):
        yield with_field("quality_prob", "9" * digits)
        yield with_field("quality_prob", "0." + "0" * digits + "1")
        yield with_field("quality_prob", "0.8" + "0" * digits + "1")
        yield with_field("quality_prob", "0.7" + "9" * digits)
        yield with_field("word_count", "1" + "0" * digits)
        yield with_field("unmapped", "-" + "7" * digits + "e" + "1" * digits)


def values(rng):
    for value in ILLEGAL_VALUES:
        for key in (*MAPPED, "unmapped"):
            yield with_field(key, value)
        yield with_field("unmapped", f"[{value}]")
        yield encode(value)
    for value in ("{}", "[]", '""', '"text"', "0", "true", "false", "null", "[{}]", '[{"text":"a"}]', '{"a":{"text":"a"}}', '{"":"a"}', "[[]]"):
        yield encode(value)
        yield encode(f" {value}\t\r")
        yield encode(value + value)
        yield encode(f"{value} {value}")
        yield encode(f"{value},{value}")
        yield encode(f"{value},")
    sound = with_text("sound")
    for tail in (",", "}", "]", ":", '"', "x", "0", "//", "// c", "/* c */", "# c", ";", "\\", "\u00a0", "\u2028", "\ufeff", "\x0b", "\x0c", "\x1e", "\x08", "{}", "null"):
        yield sound + encode(tail)
        yield sound + b" " + encode(tail)
        yield encode(tail) + sound
        yield sound[:-1] + encode(tail) + b"}"
        yield b"{" + encode(tail) + sound[1:]
    yield sound + sound
    yield sound + b"\r" + sound
    yield sound + b"\x0b"
    yield sound * 40
    yield b"[" + sound + b"]"
    yield b"'" + sound + b"'"
    yield sound.replace(b'"', b"'")
    yield sound.replace(b'"', b"")
    yield string(sound.replace(b'"', b'\\"'))


def strings(rng):
    for inner in LEGAL_STRINGS + ILLEGAL_STRINGS + LONE_SURROGATES:
        for pad in (0, 1, 5, 13, 14, 15, 16, 29, 30, 31, 32, 61, 62, 63, 64, 127):
            yield with_text("p" * pad + inner + "q" * rng.randrange(40))
        for key in ("title", "url", "domain", "unmapped", "quality_prob"):
            yield with_field(key, string(inner))
        yield with_text("key", (string(inner), "1"))
        yield with_text("in an array", ('"x"', b"[" + string(inner) + b"," + string(inner) + b"]"))
        yield string(inner)
    for code in range(0x20):
        yield with_text("a" + chr(code) + "b")
        yield with_text(f"a\\u00{code:02x}b")
        yield with_text("key", (string("k" + chr(code)), "1"))
        yield with_field("title", string(chr(code)))
        yield with_text("between", (chr(code) + '"x"', "1"))
    for code in range(0x21, 0x80):
        yield with_text("\\" + chr(code) + "0041")
    for count in (*range(1, 70), 127, 128, 129, 255, 256, 1000, 1001):  # is the last quote escaped or not?
        yield with_text("\\" * count)
        yield with_text("\\" * count + '"')
        yield with_text("a" * (70 - count % 70) + "\\" * count + 'u0041')
        yield with_field("unmapped", string("\\" * count))
    for at in EDGES:
        for inner in ('\\"', "\\\\", "\\u0041", "\\ud83d\\ude00", "\\ud83d", "\\u0000", "\x1f", '"', "\\", "\u00e9", "\U0001f600"):
            yield with_text("w" * at + inner)
            yield with_text("w " * (at // 2) + inner + " tail")


def nul_bytes(rng):
    sound = with_text("a sound text", ('"title"', '"T"'))
    for at in range(len(sound) + 1):
        yield sound[:at] + b"\x00" + sound[at:]
    for at in EDGES:
        yield b" " * at + b"\x00"
        yield with_text(b"n" * at + b"\x00")
        yield with_text("n" * at + "\\u0000")
        yield with_text("n" * at + "\\\\u0000")
        yield with_text("n" * at + "\\u0000" * 3 + "m")
    for other in (b"\xff", b"\xc2", b"\\ud800", b"\t", b""):
        yield with_text(b"\x00" + other)
        yield with_text(b"\\u0000" + other)
    yield b"\x00" * 100
    yield b"\x00" + sound
    yield sound.decode().encode("utf-16-le")
    yield sound.decode().encode("utf-16-be")
    yield sound.decode().encode("utf-32-le")
    for key in MAPPED[1:]:
        yield with_field(key, '"\\u0000"')
    yield with_field("unmapped", '"\\u0000"')
    yield with_text("key", ('"\\u0000"', "1"))
    yield with_text("key", ('"text\\u0000"', '"other"'))


def utf8(rng):
    for piece in INVALID_UTF8 + VALID_UTF8:
        for at in range(0, 70):
            yield with_text(b"u" * at + piece + b"v" * rng.randrange(3))
        for at in (10, 21, 42):
            yield with_text("€".encode() * at + piece + "😀".encode())
        yield with_text(piece)
        yield with_field("title", string(piece))
        yield with_field("unmapped", string(piece))
        yield with_text("key", (string(piece), "1"))
        yield with_text("outside", (piece + b'"x"', "1"))
        yield with_text("at the end") + piece
        yield piece + with_text("at the start")
        yield piece
        yield b" " * 20 + piece
        yield with_text("cut") [:-1] + b',"x":"' + piece
        yield with_text(b"\\" + piece)
        yield b'{"text":' + piece
    for count in (1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000):
        for lead in (b"\xc2", b"\xe2\x82", b"\xf0\x9f\x98", b"\x80"):
            yield with_text(lead * count)
            yield with_text(lead * count + b"\x80")


def white_space(rng):
    for char in WHITE + NOT_WHITE:
        raw = char if char >= " " else ""  # no control character may stand in a string as it is
        for count in (1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 200):
            yield encode(char * count)  # a blank line, or not JSON (and two lines, where it is LF)
            yield with_text(raw * count)
            yield with_text(escaped(char) * count)
            yield with_text(raw * count + escaped(char))
            yield with_text(raw * count + "x")
            yield with_text("x" + escaped(char) * count)
            yield with_text("a" * count + raw + "b" * count + escaped(char) + "c")
        for at in range(0, 70):
            yield with_text("e" * at + raw + "f")
        yield with_text(f"{raw}a{raw}{raw}b{raw}c{raw}")
        yield with_text(f"é{raw}€{escaped(char)}😀{raw}")
        yield encode(char) + with_text("after it")
        yield with_text("before it") + encode(char)
        yield with_field("title", string(raw))
    for _ in range(300):
        pool = rng.choice((WHITE, WHITE + NOT_WHITE[:6], WHITE + list("ab é€😀")))
        chars = rng.choices(pool, k=rng.randrange(1, 150))
        yield with_text("".join(c if c >= " " and rng.random() < 0.5 else escaped(c) for c in chars))
        yield encode("".join(chars).replace("\n", " "))
    for short in ("\\n", "\\t", "\\r", "\\f", "\\b", "\\/"):
        for count in (1, 2, 63, 64, 65):
            yield with_text(short * count)
            yield with_text((short + "a") * count)


def blank_lines(rng):
    for char in WHITE:
        if char != "\n":
            yield encode(char)
    for at in EDGES:
        yield b" " * at
        yield b" " * at + b"\r"
        yield ("\u2003" * at).encode()
        yield "".join(rng.choices([c for c in WHITE if c != "\n"], k=at)).encode()


def almost_blank_lines(rng):
    for at in EDGES:
        for piece in (b"x", b"\xc2", b"\xe2\x80", b"\xa0", b"\x85", b"\x00", "\u200b".encode(), "\u180e".encode(), BOM, b"\x1b", b"\x7f", b"0"):
            yield b" " * at + piece
            yield b" " * at + piece + b" " * rng.randrange(1, 40)
            yield "\u00a0".encode() * at + piece


def fields(rng):
    sources = ['"s"', '""', "1", "-0", "1.5", '"12"', "true", "false", "null", "[]", "{}", "[null]", '[1,"a"]', '{"a":1}', '{"text":"a"}', '" "', '"null"',
               '"\\ud800"', '"\\u0000"', '"\\ud83d\\ude00"', '"unknown"']
    for key in MAPPED:
        for source in sources:
            yield with_field(key, source)
            yield line((f'"{key}"', source))
            yield line(('"text"', '"first"'), (f'"{key}"', source), (f'"{key}"', '"last"'))
            yield line((f'"{key}"', '"first"'), (f'"{key}"', source), ('"text"', '"last"'))
    for first in MAPPED:  # which reason comes first?
        for second in MAPPED:
            for one, other in (("null", "[]"), ("[]", '"\\ud800"'), ('"\\ud800"', '"\\u0000"'), ('"\\u0000"', '" "'), ('" "', "true"), ('"\\udc00"', '""')):
                yield line((f'"{first}"', one), (f'"{second}"', other))
                yield line((f'"{first}"', one), (f'"{second}"', other), ('"text"', '"sound"'))
    for bad in (b"\xff", b"\x00", b'"', b"\\"):
        yield line(('"title"', "1"), ('"x"', string(bad)))
    for domain in ("unknown", "", " ", "abc", "a\\u0062c", "\\u0061\\u0062\\u0063", "ABC", "é", "\\u00e9", "e\u0301", "😀", "\\ud83d\\ude00", "\\u0000", "\\n", "\\u2028",
                   '\\"', "\\\\", "__proto__", "a/b", "a.b", "d" * 3000):
        yield with_field("domain", string(domain))
    for number in range(300):
        yield with_field("domain", string(f"domain {number * number % 97}"))
    yield b"{}"
    yield b" { } "


def keys(rng):
    spellings = ["text", "te\\u0078t", "\\u0074\\u0065\\u0078\\u0074", "\\u0074ext", "tex\\u0074", "Text", "TEXT", "text ", " text", "tex", "texts", "te\\u0058t", "te\\\\u0078t",
                 "te\\u0000xt", "text\\u0000", "te\\ud83d\\ude00xt", "\\ud800text", "text\\udc00", "te\u0445t", "\u0442ext", "\ufefftext", "text\u200b", "te\\/xt", "", "metadata",
                 "metadata.text", "$.text", "0", "t" * 3000]
    for one in spellings:
        yield line((string(one), '"only"'))
        for other in spellings[:8]:
            yield line((string(one), '"first"'), (string(other), '"second"'))
            yield line((string(one), "1"), (string(other), '"second"'))
            yield line((string(one), '"first"'), (string(other), "null"))
            yield line((string(one), '"\\ud800"'), ('"x"', "0"), (string(other), '"second"'))
    for key in MAPPED[1:]:
        for spelling in (escaped(key), key[:-1] + escaped(key[-1]), escaped(key[0]) + key[1:], escaped(key).upper().replace("U", "u")):
            yield with_text("a", (string(spelling), '"s"'))
            yield with_text("b", (string(spelling), "7"))
            yield with_text("c", (f'"{key}"', "null"), (string(spelling), '"s"'))
            yield with_text("d", (string(spelling), '"s"'), (f'"{key}"', "7"))
            yield with_text("e", (string(spelling), "7"), (f'"{key}"', "null"))
    yield with_text("inner keys", ('"meta"', '{"text":"no","title":"no","word_count":1}'), ('"metadata"', '{"title":"no"}'), ('"list"', '[{"text":"no"}]'))
    yield line(('"meta"', '{"text":"no"}'))
    yield line(('"text"', '{"text":"no"}'))
    yield with_text("dotted", ('"metadata.title"', '"no"'), ('"metadata"', '"no"'), ('"source"', '"no"'), ('"metadata.source"', '"no"'), ('"curation_date"', "1"))
    for count in (10, 1000, 20000):
        yield with_text("many keys", *((f'"k{n}"', "0") for n in range(count)), ('"title"', '"after many"'))
        yield line(*(('"text"', f'"the {n}th of {count}"') for n in range(count)))


def nesting(rng):
    for levels in (1, 2, 100, 1020, 1021, 1022, 1023, 1024, 1025, 1026, 2000, 100_000):
        arrays = "[" * levels + "]" * levels
        objects = '{"k":' * (levels - 1) + "{}" + "}" * (levels - 1)
        turns = '[{"k":' * (levels // 2) + ("[]" if levels % 2 else "0") + "}]" * (levels // 2)
        spaced = "[ " * levels + "\t]" * levels
        for deep in (arrays, objects, turns, spaced, "[" * levels, "[" * levels + "]" * (levels - 1), "[" * levels + "]" * (levels + 1), '{"k":' * levels,
                     "[1," * levels + "1" + "]" * levels, "[" * levels + '"]' + "]" * levels, '{"text":' * levels + '"a"' + "}" * levels):
            yield encode(deep)
            for key in (*MAPPED, "unmapped"):
                yield with_field(key, deep) if levels < 5000 or key == "unmapped" else with_field(key, '"' + "[" * 50 + '"')
            yield line(('"text"', deep), ('"text"', '"the last counts"'))
            yield line(('"x"', deep), ('"title"', "1"))
            yield line(('"text"', '"before"'), ('"x"', f"[{deep},{deep}]"))
        yield with_text("not nesting: " + "[" * levels + "{" * levels)
        yield with_text("siblings", ('"x"', "[" + ",".join(["[[]]"] * levels) + "]"))
        yield with_text("up and down", ('"x"', "[" + ",".join(["[" * 1000 + "]" * 1000] * min(levels, 30)) + "]"))


def lengths(rng):
    """Texts of every length class: bytes for the hash, characters for the counts."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    ends = [*range(0, 301), *range(505, 520), *range(1018, 1032), *range(2040, 2056), 3071, 3072, 3073, *range(4090, 4102), 8191, 8192, 8193]
    for length in ends:
        text = "".join(rng.choices(letters + " ", k=length))
        yield with_text(text)
        if length <= 300:
            yield with_text("".join(c if rng.random() < 0.7 else escaped(c) for c in text))
            cut = text.encode() + "😀€é".encode()
            yield with_text(cut[max(0, len(cut) - length):].decode("utf-8", "ignore"))
    for chars in (1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025, 16383, 16384, 16385, 65535, 65536, 65537):
        for pool in (letters, letters + " ", "éüñ", "é ", "漢字かな", "漢 \u3000", "😀🎉", "😀 ", "aé漢😀 \u2003"):
            text = "".join(rng.choices(pool, k=chars))
            yield with_text(text)
            if chars < 2000:
                yield with_text(escaped(text))
    for size in (100_000, 1_048_575, 1_048_576, 1_048_577, 3_000_000):
        yield with_text("w" * size)
        yield with_text("w " * (size // 2))
        yield with_text("漢" * (size // 3))
        yield with_text("short", ('"unmapped"', string("x" * size)))
        yield with_text("\\n" * (size // 2))
        yield b" " * size
        yield b"x" * size
        yield b'{"text":"' + b"unclosed " * (size // 9)
        yield with_text("x" * (size - 20)) + b" " * 20 + b"\r"


def escapes(rng):
    """Dense \\uXXXX runs of every script, among raw text, with surrogate pairs, and now and then a broken one."""
    for first, last in SCRIPTS:
        for count in (1, 2, 3, 10, 11, 21, 42, 43, 100, 1000):
            text = "".join(chr(rng.randint(first, last)) for _ in range(count))
            for share in (0, 0.5, 1):
                yield with_text("".join(escaped(c) if rng.random() < share else c for c in text))
            yield with_text("".join(escaped(c) + rng.choice(["", " ", "x", "\\n", "\\u0020", "\\u3000", "\\ud83d\\ude00"]) for c in text))
            broken = escaped(text)
            at = rng.randrange(len(broken))
            yield with_text(broken[:at] + broken[at + 1:])
            yield with_text(broken[:at // 6 * 6] + rng.choice(LONE_SURROGATES) + broken[at // 6 * 6:])
    for _ in range(400):
        mixed = "".join(chr(rng.randint(*rng.choice(SCRIPTS))) for _ in range(rng.randrange(1, 120)))
        yield with_field("title", string(escaped(mixed)))
        yield with_text(escaped(mixed), ('"url"', string(mixed)))


def token_blanks(rng):
    def blanks():
        return rng.choice(JSON_BLANKS)

    for n in range(400):
        tokens = ["{", '"text"', ":", f'"spaced {n}"', ",", '"x"', ":", "[", "1", ",", "true", ",", "{", '"y"', ":", "null", "}", ",", "{", "}", ",", "[", "]", "]", ",",
                  '"quality_prob"', ":", "0.9", ",", '"title"', ":", '"T"', "}"]
        yield encode("".join(blanks() + token for token in tokens) + blanks())
        at = rng.randrange(len(tokens))
        odd = rng.choice(["\u00a0", "\x0b", "\x0c", "\u2028", "\ufeff", "\u0085", "\x1c", "\u3000", "/**/", ",", "\\n"])
        yield encode("".join(blanks() + (odd if n == at else "") + token for n, token in enumerate(tokens)))


CRAFTED = [numbers, huge_numbers, values, strings, nul_bytes, utf8, white_space, almost_blank_lines, fields, keys, nesting, lengths, escapes, token_blanks]


# ---- random mutations of real lines --------------------------------------------------------------------

SPECIAL = b'"\\{}[]:,0-+.eEu/ \t\r\n\x00\x1f\x7f\x80\xbf\xc2\xe2\xed\xf0\xf5\xff'


def a_place(rng, data):
    """Anywhere, or beside something that has a meaning in JSON."""
    if rng.random() < 0.5:
        marks = [n for n, byte in enumerate(data[:4000]) if byte in b'"\\{}[]:,']
        if marks:
            return min(len(data) - 1, max(0, rng.choice(marks) + rng.choice((-1, 0, 0, 1))))
    return rng.randrange(len(data))


def mutate_bytes(rng, data):
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        at, kind = a_place(rng, data), rng.randrange(9)
        if kind == 0:  # flip one bit
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:]
        elif kind == 1:  # replace one byte
            data = data[:at] + bytes([rng.choice(SPECIAL)]) + data[at + 1:]
        elif kind == 2:  # delete
            data = data[:at] + data[at + rng.choice((1, 1, 1, 2, 6, 40)):]
        elif kind == 3:  # insert
            data = data[:at] + rng.choice((bytes([rng.choice(SPECIAL)]), rng.choice(INVALID_UTF8), rng.randbytes(3))) + data[at:]
        elif kind == 4:
            data = data[:at]
        elif kind == 5:
            data = data[at:]
        elif kind == 6:  # swap the halves
            data = data[at:] + data[:at]
        elif kind == 7:  # say something twice
            data = data[:at + rng.randrange(60)] + data[at:]
        else:  # exchange two bytes
            other = a_place(rng, data)
            low, high = sorted((at, other))
            if low < high:
                data = data[:low] + data[high:high + 1] + data[low + 1:high] + data[low:low + 1] + data[high + 1:]
    return data


def rebuild(rng, data):
    """The same document in another order, spelling and spacing; now and then with a member spoilt or twice."""
    members = [(json.dumps(key), json.dumps(value, ensure_ascii=rng.random() < 0.5)) for key, value in json.loads(data).items()]
    rng.shuffle(members)
    kind = rng.randrange(6)
    at = rng.randrange(len(members))
    key, value = members[at]
    if kind == 0:
        del members[at]
    elif kind == 1:
        members[at] = (key, rng.choice(["null", "1", "true", "[]", "{}", '""', '" "', rng.choice(LEGAL_NUMBERS), rng.choice(ILLEGAL_VALUES)]))
    elif kind == 2:
        members.insert(rng.randrange(len(members) + 1), (key, rng.choice(["null", '"another"', "0", value])))
    elif kind == 3:
        members[at] = ('"' + escaped(key.strip('"')) + '"', value)
    elif kind == 4 and value.startswith('"'):
        place = rng.randrange(1, len(value))
        piece = rng.choice([rng.choice(pool) for pool in (LEGAL_STRINGS, ILLEGAL_STRINGS, LONE_SURROGATES, WHITE, NOT_WHITE)])
        members[at] = (key, value[:place] + piece + value[place:])
    space = rng.choice(["", " ", "\t", "\r", " \r\t "])
    return encode(space + "{" + space + f"{space},{space}".join(f"{k}{space}:{space}{v}" for k, v in members) + space + "}" + space)


def random_mutations(rng, real, count):
    for _ in range(count):
        data = rng.choice(real)
        dice = rng.randrange(10)
        if dice < 6:
            yield mutate_bytes(rng, data)
        elif dice < 9:
            yield rebuild(rng, data)
        else:
            one, other = rng.choice(real), rng.choice(real)  # the halves of two lines
            yield one[:rng.randrange(len(one))] + other[rng.randrange(len(other)):]


# ---- the corpus ----------------------------------------------------------------------------------------

class Corpus:
    def __init__(self, folder):
        self.folder = folder
        self.count = 0
        self.good = 0

    def some_good(self, count):
        self.good += count
        return [good(n) for n in range(self.good - count, self.good)]

    def lines(self, name, lines, end=b"\n"):
        """A shard of lines, packed as its name says."""
        lines = list(lines)
        self.count += len(lines)
        self.raw(name, b"".join(item + end for item in lines))

    def raw(self, name, data):
        if name.endswith(".gz"):
            data = gzip.compress(data, mtime=0)
        elif name.endswith(".zst"):
            data = zstandard.ZstdCompressor().compress(data)
        self.file(name, data)

    def file(self, name, data):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def make(corpus, rng, real, count):
    crafted = [(make_lines.__name__, list(make_lines(rng))) for make_lines in CRAFTED]
    packings = (".jsonl", ".jsonl.gz", ".ndjson", ".jsonl.zst", ".ndjson.gz", ".ndjson.zst")
    for number, (name, lines) in enumerate(crafted):
        folder = ("", "nested/", "nested/deeper/still/")[number % 3]
        corpus.lines(f"{folder}{name.replace('_', '-')}{packings[number % len(packings)]}", lines)

    mixed = [item for name, lines in crafted if name != "lengths" for item in rng.sample(lines, min(len(lines), 400))]
    mixed += list(blank_lines(rng)) + corpus.some_good(500) + rng.sample(real, min(len(real), 500))
    rng.shuffle(mixed)
    corpus.lines("mixed.jsonl", mixed)
    corpus.lines("nested/mixed-crlf.jsonl", rng.sample(mixed, min(len(mixed), 1000)), end=b"\r\n")
    corpus.lines("nested/mixed-lone-cr.jsonl", rng.sample(mixed, min(len(mixed), 200)), end=b"\r")  # nearly all one line
    corpus.lines("nested/mixed-packed.jsonl.gz", rng.sample(mixed, min(len(mixed), 1000)))

    mutated = list(random_mutations(rng, real, count))
    corpus.lines("mutated/a.jsonl", mutated[0::3])
    corpus.lines("mutated/b.jsonl.zst", mutated[1::3])
    corpus.lines("mutated/c.ndjson.gz", mutated[2::3])

    # Ends and beginnings of files.
    two = b"\n".join(corpus.some_good(2))
    corpus.raw("ends/empty.jsonl", b"")
    corpus.raw("ends/empty.jsonl.gz", b"")
    corpus.raw("ends/empty.ndjson.zst", b"")
    corpus.lines("ends/blank.jsonl", blank_lines(rng))
    corpus.lines("ends/blank-crlf.jsonl", [b""] * 70, end=b"\r\n")
    corpus.raw("ends/one-lf.jsonl", b"\n")
    corpus.raw("ends/lfs.jsonl", b"\n" * 1000)
    corpus.raw("ends/blank-without-lf.jsonl", b" \t")
    corpus.raw("ends/bom-only.jsonl", BOM)
    corpus.raw("ends/bom-only.jsonl.gz", BOM)
    corpus.raw("ends/bom-lf.jsonl", BOM + b"\n")
    corpus.raw("ends/bom-good.jsonl", BOM + two + b"\n")
    corpus.raw("ends/bom-good.jsonl.zst", BOM + two + b"\n")
    corpus.raw("ends/bom-rejected.jsonl", BOM + b"{oops\n" + two + b"\n{oops")
    corpus.raw("ends/bom-rejected.ndjson.gz", BOM + b"{oops\n" + two + b"\n{oops")
    corpus.raw("ends/bom-twice.jsonl", BOM * 2 + two + b"\n")
    corpus.raw("ends/bom-cut.jsonl", BOM[:2] + b"\n" + two)
    corpus.raw("ends/bom-cut-only.jsonl", BOM[:2])
    corpus.raw("ends/bom-utf16.jsonl", two.decode().encode("utf-16"))
    corpus.raw("ends/bom-mid-file.jsonl", two + b"\n" + BOM + two + b"\n" + BOM + b"\n" + with_text(BOM + b"in a text") + b"\n")
    corpus.raw("ends/no-last-lf.jsonl", b"\n".join(corpus.some_good(3)))
    corpus.raw("ends/no-last-lf-cr.jsonl", b"\r\n".join(corpus.some_good(3)) + b"\r")
    corpus.raw("ends/no-last-lf-rejected.jsonl", two + b'\n{"text":"cut')
    corpus.raw("ends/no-last-lf-rejected.jsonl.gz", two + b'\n{"text":"cut')
    corpus.raw("ends/no-last-lf-rejected.jsonl.zst", two + b'\n{"text":"cut')
    corpus.raw("ends/cut-in-a-character.jsonl", two + b'\n{"text":"\xe2\x82')
    corpus.raw("ends/character-over-lf.jsonl", b'{"text":"\xe2\n\x82\xac"}\n' + two + b"\n\xf0\x9f\n\x98\x80\n")
    corpus.raw("ends/only-rejected.jsonl", b"no\nno\nno\n")
    corpus.raw("ends/one-byte.jsonl", b"{")
    corpus.raw("ends/one-nul.jsonl", b"\x00")

    # Packed files of several members or frames, cut in the middle of a line.
    many = b"\n".join(corpus.some_good(50)) + b"\n"
    corpus.file("packed/members.jsonl.gz", b"".join(gzip.compress(many[n:n + 777], mtime=0) for n in range(0, len(many), 777)))
    corpus.file("packed/frames.jsonl.zst", b"".join(zstandard.ZstdCompressor().compress(many[n:n + 777]) for n in range(0, len(many), 777)))
    corpus.file("packed/empty-member.jsonl.gz", gzip.compress(b"", mtime=0) + gzip.compress(many, mtime=0) + gzip.compress(b"", mtime=0))
    corpus.file("packed/no-size.jsonl.zst", zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compress(many))

    # Names whose order by bytes of the whole path is not that of their parts.
    for name in ("order/a/z.jsonl", "order/a-b.jsonl", "order/a.jsonl", "order/a0.jsonl", "order/a b.jsonl", "order/a/b/c.jsonl", "order/a/b-c.jsonl", "order/A.jsonl",
                 "order/B/a.jsonl", "order/10.jsonl", "order/9.jsonl", "order/é.jsonl", "order/z.jsonl", "order/漢 字.jsonl", "order/😀.jsonl", "order/ﬀ.jsonl",
                 "order/folder.jsonl/inner.jsonl", "order/a.jsonl.gz", "order/a.ndjson", "order/~.jsonl", "order/#%?&'.jsonl"):
        corpus.lines(name, corpus.some_good(3) + [b"rejected " + name.encode()])

    # To be skipped.
    for name in (".hidden.jsonl", ".hidden/a.jsonl", "nested/.hidden/deep/a.jsonl", "nested/.b.jsonl.gz", ".jsonl", "._mixed.jsonl", "notes.txt", "data.json", "README.md",
                 "mixed.jsonl.bak", "mixed.jsonl.tmp", "jsonl", "nested/xjsonl", "table.csv", "mixed.jsonl.bz2", "archive.gz", "nested/ndjson"):
        corpus.file(name, b'{"text":"this file must be skipped"}\nrejected, were it read\n')
    (corpus.folder / "empty-folder").mkdir()
    (corpus.folder / "empty-folder.jsonl").mkdir()


def main():
    parser = argparse.ArgumentParser(description="Makes a hostile corpus from real JSON Lines.")
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lines", type=int, default=6000, help="randomly mutated real lines")
    args = parser.parse_args()
    real = [item for path in sorted(args.source.rglob("*.jsonl")) for item in path.read_bytes().split(b"\n") if item.strip()]
    if not real:
        parser.error(f"no lines in {args.source}")
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"{args.out} is not empty")
    args.out.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(args.out)
    make(corpus, random.Random(args.seed), real, args.lines)
    shards = sum(path.is_file() for path in args.out.rglob("*"))
    print(f"{args.out}: {shards} files, about {corpus.count:,} lines", file=sys.stderr)


if __name__ == "__main__":
    main()
