"""Write the reference pages of the documentation: every key of the configuration, and every command.

    python performance/reference.py

The meaning of a key is the docstring below it in the schema; `lensflow explain` and editors read the same text.
"""

import argparse
from itertools import groupby
from pathlib import Path

from lensflow.cli.main import parser
from lensflow.workflow.explaining import Key, choices_of, default_of, keys

FOLDER = Path(__file__).resolve().parents[1] / "docs/reference"
MADE_BY = "<!-- Written by performance/reference.py. -->\n\n"
KEYS_HEAD = """# Every key of the configuration

Names that you choose, such as the name of a method, are left out: `methods.lens.lambda` is the key `lambda` of each
method of kind `lens`. `lensflow explain KEY` prints the same text in the terminal. [Configuration](../configuration.md)
shows the keys in use.
"""
COMMANDS_HEAD = """# Every command

`lensflow COMMAND --help` prints the same text. The stages at the end are called by Snakemake; you can also run each of
them alone.
"""


def keys_page() -> str:
    """Return the page of the configuration: a table per section."""
    sections = groupby(sorted(keys(), key=lambda key: key.path[:-1]), key=lambda key: ".".join(key.path[:-1]))
    return MADE_BY + KEYS_HEAD + "".join(_section(name, list(rows)) for name, rows in sections)


def _section(name: str, rows: list[Key]) -> str:
    title = f"\n## `{name}`\n" if name else "\n## At the top\n"
    return f"{title}\n{key_table(rows, len(rows[0].path) - 1)}\n"


def key_table(rows: list[Key], depth: int) -> str:
    """Return a table of keys, without the first `depth` parts of their paths."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    lines += [
        f"| `{'.'.join(key.path[depth:])}` | {_cell(default_of(key.field))} | {_cell(_meaning(key))} |" for key in rows
    ]
    return "\n".join(lines)


def _meaning(key: Key) -> str:
    values = choices_of(key.field.annotation)
    listed = f" One of: {', '.join(f'`{value}`' for value in values)}." if values else ""
    return " ".join((key.field.description or "").split()) + listed


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("{", "&#123;").replace("<", "&lt;")


def commands_page() -> str:
    """Return the page of the command line."""
    (commands,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    summaries = {action.dest: action.help for action in commands._choices_actions}
    parts = [f"\n## `lensflow {name}`\n\n{summaries[name]}\n{_options(sub)}" for name, sub in commands.choices.items()]
    return MADE_BY + COMMANDS_HEAD + "".join(parts)


def _options(sub: argparse.ArgumentParser) -> str:
    rows = [
        f"| `{', '.join(action.option_strings) or action.dest}` | {_cell(action.help or '')} |"
        for action in sub._actions
        if "--help" not in action.option_strings
    ]
    return "\n| argument | meaning |\n|---|---|\n" + "\n".join(rows) + "\n" if rows else ""


PAGES = {"keys.md": keys_page, "commands.md": commands_page}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
