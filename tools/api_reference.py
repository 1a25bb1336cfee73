"""Writes docs/api.md from the docstrings of the public names.

    python tools/api_reference.py            # writes it
    python tools/api_reference.py --check    # says what is out of date

Needs the package and its TensorFlow, nothing else; `make docs` has both. What
the page holds does not depend on the versions.
"""

import argparse
import difflib
import inspect
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
PACKAGE = "awd_lstm_tf"
COMMAND = "python tools/api_reference.py"

HEAD = f"""# API reference

Made from the docstrings by `{COMMAND}`; mend those.
"""
SECTIONS = "Args|Returns|Raises|Example|References"
LISTS = ("Args", "Raises")


def public_names(package):
    """`{"awd_lstm_tf.x": object}` of `__all__` and of the modules in it."""
    found = {}
    for name in package.__all__:
        value = getattr(package, name)
        found[f"{PACKAGE}.{name}"] = value
        if inspect.ismodule(value):
            for each, member in vars(value).items():
                if _is_own(each, member, value.__name__):
                    found[f"{PACKAGE}.{name}.{each}"] = member
    return found


def _is_own(name, value, module):
    documented = inspect.isclass(value) or inspect.isfunction(value)
    public = documented and not name.startswith("_")
    return public and value.__module__ == module


def members(kind):
    """Public methods and properties of a class that this package defines."""
    found = {}
    for base in kind.__mro__:
        if base.__module__.startswith(PACKAGE):
            for name, value in vars(base).items():
                public = not name.startswith("_") or name == "__call__"
                value = getattr(value, "__func__", value)  # of a classmethod
                doc = inspect.getdoc(value)
                # A field of a namedtuple has no doc of its own.
                if public and doc and not doc.startswith("Alias for field"):
                    found.setdefault(name, value)
    return found


def reference(package):
    """The whole page."""
    names = public_names(package)
    parts = [HEAD, "\n".join(_link(name) for name in names) + "\n"]
    for name, value in names.items():
        parts += [f"## {name}\n", _entry(name.rpartition(".")[2], value)]
        if inspect.isclass(value):
            for each, member in members(value).items():
                parts += [f"### {_title(value, each, member)}\n"]
                parts += [_entry(each, member)]
    return "\n".join(parts)


def _link(name):
    return f"- [{name}](#{re.sub('[^a-z0-9_ -]', '', name.lower())})"


def _title(owner, name, value):
    if isinstance(value, property):
        return f"{owner.__name__}.{name}, a property"
    return f"{owner.__name__}.{name}"


def _entry(name, value):
    parts = []
    if callable(value):
        parts.append(_signature(name, value))
    parts.append(_markdown(inspect.getdoc(value)))
    constructor = (
        vars(value).get("__init__") if inspect.isclass(value) else None
    )
    if constructor is not None and constructor.__doc__:
        parts.append(_markdown(inspect.getdoc(constructor)))
    return "\n".join(parts)


def _parameters(value):
    """What a call takes; of a class, what a constructor of ours does.

    To those of hooks, for one, the Estimator of 2.x does something of its own.
    """
    if inspect.isclass(value):
        ours = [b for b in value.__mro__ if b.__module__.startswith(PACKAGE)]
        if not any({"__init__", "__new__"} & set(vars(base)) for base in ours):
            return []
    return inspect.signature(value).parameters.values()


def _signature(name, value):
    arguments, stars = [], False
    for each in _parameters(value):
        if each.kind is each.KEYWORD_ONLY and not stars:
            arguments.append("*")
        stars = stars or each.kind in (each.VAR_POSITIONAL, each.KEYWORD_ONLY)
        if each.name not in ("self", "cls"):
            arguments.append(str(each))
    line = f"    {name}({', '.join(arguments)})\n"
    if len(line) <= 80:
        return line
    lines = "".join(f"        {each},\n" for each in arguments)
    return f"    {name}(\n{lines}    )\n"


def _markdown(doc):
    """A docstring's sections as bold heads, its lists as bullets."""
    pieces = re.split(rf"^({SECTIONS}):\n", doc, flags=re.M)
    # A row of a table is one line in Markdown.
    text = re.sub(r"^(\|.*[^|\n])\n(?!\|)", r"\1 ", pieces[0], flags=re.M)
    parts = [text.strip() + "\n"]
    for head, body in zip(pieces[1::2], pieces[2::2]):
        if head != "Example":  # whose code is indented already
            body = inspect.cleandoc("\n" + body)
        if head in LISTS:
            body = re.sub(r"^(\*{0,2}[\w.]+):", r"- `\1`:", body, flags=re.M)
        parts.append(f"**{head}**\n\n" + body.strip("\n") + "\n")
    return "\n".join(parts)


def differences(package):
    """Lines that tell the page from what it ought to be; [] when it is."""
    have = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    need = reference(package)
    return list(
        difflib.unified_diff(
            have.splitlines(), need.splitlines(), "docs/api.md", "docstrings"
        )
    )


def main(arguments=None):
    """Writes the page, or with `--check` compares it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    flags = parser.parse_args(arguments)
    package = __import__(PACKAGE)
    if flags.check:
        changed = differences(package)
        if changed:
            sys.exit("\n".join(changed) + f"\n\nOut of date: run `{COMMAND}`.")
        return
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(reference(package), encoding="utf-8")
    print("Wrote", PAGE)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
