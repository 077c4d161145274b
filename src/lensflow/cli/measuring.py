"""The subcommand measure."""

import argparse
from pathlib import Path

from lensflow.cli.commands import Subparsers, add_command, summary_of


def add(commands: Subparsers) -> None:
    """Add the subcommand."""
    sub = add_command(commands, "measure", measure, summary_of(measure))
    sub.add_argument("answers", type=Path, help="JSON Lines or CSV file (also .gz), one answer per row")
    language = sub.add_mutually_exclusive_group(required=True)
    language.add_argument("--language", help="the language of all rows: a BCP 47 tag, such as sw or zh-Hant")
    language.add_argument("--language-column", help="the column that names each row's language")
    sub.add_argument("--prompt-column", help="the column of the prompts; without it copies are not found")
    sub.add_argument("--answer-column", default="answer", help="the column of the answers (default: answer)")
    sub.add_argument("--output", type=Path, help="writes one JSON row per input row")


def measure(args: argparse.Namespace) -> None:
    """Measure answers that any system wrote: one outcome per answer, shares per language."""
    from lensflow.measures import files

    print(
        files.measure(
            args.answers,
            language=args.language,
            language_column=args.language_column,
            prompt_column=args.prompt_column,
            answer_column=args.answer_column,
            output=args.output,
        )
    )
