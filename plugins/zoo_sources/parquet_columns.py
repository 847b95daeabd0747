"""Which columns of a Parquet file hold images, labels and splits, by their types and what datasets wrote of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zoo

from zoo_sources.columns import SPLIT
from zoo_sources.programs import python

IMAGE_NAMES = ("image", "img", "picture", "photo")
LABEL_NAMES = ("label", "labels", "class")


@dataclass(frozen=True, slots=True)
class ImageColumns:
    """The columns of a Parquet file that holds the images themselves."""

    image: str
    inside: str | None
    """The field of the bytes in a column of structs, None in a column of bytes."""
    has_paths: bool
    """Whether the structs also have the path from which each image came."""
    label: str
    split: str | None
    classes: tuple[str, ...] | None
    """The names of the classes by number, as `ClassLabel` of Hugging Face datasets has them."""

    @property
    def stored(self) -> str:
        """The column of the bytes, as Parquet calls it."""
        return self.image if self.inside is None else f"{self.image}.{self.inside}"

    @property
    def listed(self) -> list[str]:
        """The columns that are read to list the images; the images are not."""
        paths = [f"{self.image}.path"] if self.has_paths else []
        return [self.label, *([self.split] if self.split else []), *paths]

    def note(self) -> str:
        """Which columns were taken, for people."""
        return f"image from column {self.image}, label from column {self.label}"


def image_columns(path: Path, schema: Any) -> ImageColumns | None:
    """The columns of a file that holds images, or None for one that holds their paths.

    Raises DataError if it is not clear which column is the image or the label.
    """
    structs = [field.name for field in schema if _bytes_inside(field.type)]
    plain = [field.name for field in schema if _is_bytes(field.type)]
    lowered = {name.strip().casefold() for name in schema.names}
    if not structs and (not plain or {"path", "label"} <= lowered or {"file_name", "label"} <= lowered):
        _refuse_pixels(path, schema, lowered)
        return None
    features = _features(schema)
    image = _only(path, schema, "image", structs or plain, IMAGE_NAMES)
    named = [name for name in schema.names if name.strip().casefold() in LABEL_NAMES and name != image]
    numbered = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    texts = [field.name for field in schema if is_text(field.type) and field.name.casefold() != SPLIT]
    label = _only(path, schema, "label", named or numbered or texts, LABEL_NAMES)
    _refuse_label_type(path, label, schema.field(label).type)
    split = next((field.name for field in schema if field.name.strip().casefold() == SPLIT), None)
    return ImageColumns(
        image=image,
        inside="bytes" if image in structs else None,
        has_paths=image in structs
        and any(is_text(each.type) for each in schema.field(image).type if each.name == "path"),
        label=label,
        split=split if split not in (image, label) else None,
        classes=class_names(schema, label),
    )


def class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """The names of the numbers in a column, if datasets wrote some."""
    names = _features(schema).get(label, {}).get("names")
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def is_text(kind: Any) -> bool:
    """Whether a column has texts, stored once each or in a dictionary."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _bytes_inside(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind)) and any(each.name == "bytes" and _is_bytes(each.type) for each in kind)


def _features(schema: Any) -> Mapping[str, Mapping[str, Any]]:
    """What Hugging Face datasets says of the columns; empty if the file is not from there."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: feature for name, feature in found.items() if isinstance(feature, dict)}


def _only(path: Path, schema: Any, kind: str, candidates: Sequence[str], usual_names: Sequence[str]) -> str:
    usual = [name for wanted in usual_names for name in candidates if name.strip().casefold() == wanted]
    if len(candidates) == 1 or usual:
        return (usual or list(candidates))[0]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if not candidates:
        raise zoo.DataError(
            f"{path} has no column of labels beside its images; its columns: {columns}.\n"
            "Next: add a column called label, of texts or whole numbers."
        )
    kept, *others = candidates
    program = (
        "import sys, pyarrow.parquet as pq; "
        f"[pq.write_table(pq.read_table(f).drop_columns({others!r}), f, row_group_size=100) for f in sys.argv[1:]]"
    )
    raise zoo.DataError(
        f"{path} has several columns that may be the {kind}: {', '.join(candidates)}; its columns: {columns}.\n"
        f"Next: keep one of them in a copy of the files. To keep {kept}, run in the copy's folder:\n"
        f"{python(program)} *.parquet"
    )


def _refuse_label_type(path: Path, label: str, kind: Any) -> None:
    from pyarrow import types

    if is_text(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind):
        return
    what = "several labels an image" if types.is_list(kind) or types.is_large_list(kind) else "values of another kind"
    raise zoo.DataError(
        f"The column {label!r} of {path} has {what} ({kind}); an image has one class here, a text or a whole number.\n"
        f"Next: write one text or whole number of each row to a column called label, in place of {label}."
    )


def _refuse_pixels(path: Path, schema: Any, lowered: set[str]) -> None:
    from pyarrow import types

    lists = [field.name for field in schema if types.is_nested(field.type) and field.name.casefold() in IMAGE_NAMES]
    if lists and "path" not in lowered and "file_name" not in lowered:
        raise zoo.DataError(
            f"The column {lists[0]!r} of {path} holds {schema.field(lists[0]).type}, not the bytes of image files.\n"
            f"Next: encode each image as PNG, and store the bytes of that in the column {lists[0]}."
        )
