"""Reads values out of files the way their users do: the other side of tests/readers.rs.

Takes a JSON list of [format, text, path] on a file and prints the list of values found (null: not found)."""

import configparser, json, sys
import xml.etree.ElementTree as ElementTree
import yaml


def read_xml(text, path):
    root = ElementTree.fromstring(text)
    steps, _, attribute = path.strip("/").partition("/@")
    element = root if "/" not in steps else root.find(steps.partition("/")[2])
    return element.get(attribute) if attribute else element.text or ""


def read_ini(text, path):
    section, _, key = path.removeprefix("[").rpartition("]")
    parser = configparser.ConfigParser(interpolation=None, strict=False, inline_comment_prefixes=(";",))
    parser.optionxform = str
    parser.read_string("[TOP]\n" + text)
    value = parser.get(section or "TOP", key)
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value


def read_yaml(text, path):
    value = yaml.safe_load(text)
    for step in path.strip("/").split("/"):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


READERS = {"xml": read_xml, "ini": read_ini, "yaml": read_yaml}


def read(format, text, path):
    try:
        return READERS[format](text, path)
    except Exception as error:
        return {"error": repr(error)}


with open(sys.argv[1], encoding="utf-8") as file:
    json.dump([read(*case) for case in json.load(file)], sys.stdout)
