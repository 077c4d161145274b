"""Reading JSON, YAML and text with limits on the size; nothing here compares a file with a record."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError
from lensflow.storage.digests import canonical_json

# Bounds on what comes from outside, far above what anybody writes: memory for a file is bounded before it is read.
LONGEST_LINE = 1 << 24  # bytes
LARGEST_JSON = 1 << 28  # bytes
LARGEST_YAML = 1 << 20  # bytes
MOST_VALUES = 100_000  # of a YAML file, what its anchors stand for written out


def parse_json(text: str) -> Any:
    """Parse one JSON value.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or holds half of a surrogate pair, which is not a
            character and could not be written again.
    """
    try:
        value = json.loads(text)
        if "\\u" in text:
            canonical_json(value).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def read_text(path: Path, most: int) -> str:
    """Read a text file of at most `most` bytes.

    Raises:
        LensflowError: the file is missing, larger, or not UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise LensflowError(f"{path}: more than {most} bytes; give a smaller file")
        return content.decode()
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError:
        raise LensflowError(f"{path}: not UTF-8 text; convert it, or name another file") from None
    except IsADirectoryError:
        raise LensflowError(f"{path}: is a folder; name a file") from None
    except OSError as error:
        raise LensflowError(f"{path}: cannot be read ({error.strerror})") from None


def read_yaml(path: Path, loader: Any = None) -> Any:
    """Read one YAML value, which may contain only plain values.

    Args:
        path: the file.
        loader: a loader class of PyYAML; by default `yaml_loader.SafeLoader`.

    Raises:
        LensflowError: the file is missing, too large or not valid; its anchors expand to too many values (a "YAML
            bomb"); or a key stands twice in a mapping and no loader is given. YAML would keep the last of the two.
    """
    import yaml

    from lensflow.storage.yaml_loader import SafeLoader

    text = read_text(path, LARGEST_YAML)

    def children(node: Any) -> Iterable[Any]:
        if isinstance(node, yaml.MappingNode):
            return [part for pair in node.value for part in pair]
        return node.value if isinstance(node, yaml.SequenceNode) else ()

    try:
        reading = (loader or SafeLoader)(text)
        node = reading.get_single_node()
        if node is None:
            return None
        if expanded_size(node, children) > MOST_VALUES:
            raise LensflowError(f"{path}: its anchors expand to more than {MOST_VALUES} values; write fewer")
        if loader is None and (twice := _twice(node, children)) is not None:
            raise LensflowError(
                f"{path}, line {twice.start_mark.line + 1}: key '{twice.value}' occurs twice in one mapping; keep one"
            )
        return reading.construct_document(node)
    except LensflowError:
        raise
    except RecursionError:
        raise LensflowError(f"{path}: nested too deeply; write it flatter") from None
    except yaml.MarkedYAMLError as error:
        raise LensflowError(_misspelt(path, text, error)) from None
    except Exception as error:  # constructors of scalars fail in ways of their own, such as a KeyError for `!!bool x`
        raise LensflowError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


def _misspelt(path: Path, text: str, error: Any) -> str:
    """Return where YAML cannot be read, why, and what is usually the cause."""
    mark = error.problem_mark or error.context_mark
    since = f", {error.context} that begins in line {error.context_mark.line + 1}" if error.context_mark else ""
    [*_, line] = text.splitlines()[: mark.line + 1] or [""]
    tabs = "\t" in line[: len(line) - len(line.lstrip())]
    cause = "indent by spaces, not by tabs" if tabs else "check its indentation, colons, commas and quotes"
    return f"{path}, line {mark.line + 1}: not valid YAML ({error.problem}{since}); {cause}"


def _twice(root: Any, children: Callable[[Any], Iterable[Any]]) -> Any:
    """Return the node of the first key that repeats a key of its mapping; merge keys (`<<`) may repeat."""
    pending, seen = [root], set[int]()
    while pending:
        node = pending.pop(0)
        if id(node) in seen:
            continue
        seen.add(id(node))
        keys = set[str]()
        for key, _ in node.value if node.id == "mapping" else ():
            if key.id == "scalar" and key.value != "<<":
                if key.value in keys:
                    return key
                keys.add(key.value)
        pending += children(node)
    return None


def expanded_size(root: Any, children: Callable[[Any], Iterable[Any]]) -> int:
    """Count the values below `root`; a shared value counts once per use.

    The count is above `MOST_VALUES` if it is endless.

    Raises:
        RecursionError: the values are nested too deeply.
    """
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        if id(value) not in sizes:
            sizes[id(value)] = MOST_VALUES + 1  # until it is known: for a value that holds itself
            sizes[id(value)] = 1 + sum(map(size, children(value)))
        return sizes[id(value)]

    return size(root)
