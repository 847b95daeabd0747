"""Findings about single files: what cannot be read, what is lost in decoding, how images are stored, their size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

from PIL import Image

from zoo.data.check.facts import FileFacts, Survey
from zoo.data.check.report import Case, Finding
from zoo.data.dataset import UNREADABLE_SHARE
from zoo.data.lost_values import SHOWN, TO_8_BITS
from zoo.specs.data import IMAGE_SUFFIXES, Skipped, is_image_name, is_system_name
from zoo.text import counted

TINY = 32
"""Pixels; an image with a shorter side than this shows almost nothing, and is far smaller than a backbone's input."""
HUGE = 50_000_000
"""Pixels in all; decoding more is slow."""


def unreadable(survey: Survey) -> Iterator[Finding]:
    """Files that cannot be decoded."""
    bad = [facts for facts in survey.facts.values() if facts.fault]
    if not bad:
        return
    share = len(bad) / len(survey.facts)
    too_many = share > UNREADABLE_SHARE
    effect = f"over {UNREADABLE_SHARE:.0%}, so zoo finetune refuses" if too_many else "zoo finetune leaves them out"
    yield Finding(
        code="unreadable",
        severity="fault" if too_many else "warning",
        sentence=f"{counted(len(bad), 'file')} of {len(survey.facts):,} cannot be decoded ({share:.1%}): {effect}.",
        next_step="replace these files, or remove them.",
        cases=tuple(Case(files=(facts.relative,), detail=facts.fault) for facts in bad),
    )


def lost_values(survey: Survey) -> Iterator[Finding]:
    """Pictures that decoding destroyed, which no run can tell from good ones."""
    good = [facts for _, _, facts in survey.good_files()]
    for kind, meaning in SHOWN.items():
        lost = [(facts, facts.loss) for facts in good if facts.loss is not None and facts.loss.kind == kind]
        if lost:
            # Low contrast alone is no fault: pictures such as computed tomography are of that kind.
            many = kind == "lost_values" and len(lost) > UNREADABLE_SHARE * len(good)
            yield Finding(
                code=kind,
                severity="fault" if many else "warning",
                sentence=f"{counted(len(lost), 'image')} of {len(good):,} {'shows' if len(lost) == 1 else 'show'} "
                f"{meaning}, though the {'file holds' if len(lost) == 1 else 'files hold'} more.",
                next_step=f"{TO_8_BITS}.",
                cases=tuple(Case(files=(facts.relative,), detail=loss.detail) for facts, loss in lost),
            )


def wrong_extensions(survey: Survey) -> Iterator[Finding]:
    """Files whose extension is not that of their content, or that zoo does not read."""
    # Compared by format and not by name, for .jpg and .jpeg, .tif and .tiff are the same.
    formats = Image.registered_extensions()
    wrong = [
        Case(files=(facts.relative,), detail=f"the content is {facts.format}")
        for _, _, facts in survey.good_files()
        # A row of a table may have a name without an extension.
        if _suffix(facts) and formats.get(_suffix(facts)) != _usual_format(facts.format)
    ]
    unsupported = [
        Case(files=(facts.relative,), detail=f"{_content(facts)}; no run uses it")
        for skipped, facts in survey.unused
        if _is_unsupported_image(skipped, facts)
    ]
    if wrong or unsupported:
        yield Finding(
            code="wrong_extension",
            severity="warning",
            sentence=f"{counted(len(wrong) + len(unsupported), 'image has', 'images have')} an extension that does not "
            f"match the format, or that zoo does not read (it reads {', '.join(IMAGE_SUFFIXES)}).",
            next_step="rename or convert the images that belong to the data, and remove the others.",
            cases=(*unsupported, *wrong),
        )


def not_used(survey: Survey) -> Iterator[Finding]:
    """Files that no run uses, but for hidden ones and system files."""
    cases = tuple(
        Case(files=(skipped.relative,), detail=f"{skipped.reason}{f', {skipped.detail}' if skipped.detail else ''}")
        for skipped, facts in survey.unused
        if not _is_unsupported_image(skipped, facts)
    )
    if cases:
        yield Finding(
            code="not_used",
            severity="warning",
            sentence=f"{counted(len(cases), 'file is', 'files are')} not used: not an image, or not in a class folder.",
            next_step="remove them, or move images to the folder of their class.",
            cases=cases,
        )


def hidden(survey: Survey) -> Iterator[Finding]:
    """Images that a person may have meant: what an operating system or a NAS made is only counted."""
    cases = tuple(
        Case(files=(skipped.relative,), detail="a name begins with a dot")
        for skipped in survey.passed_over
        if skipped.reason == "hidden"
        and is_image_name(skipped.relative)
        and not any(map(is_system_name, PurePosixPath(skipped.relative).parts))
    )
    if cases:
        yield Finding(
            code="hidden_images",
            severity="warning",
            sentence=f"{counted(len(cases), 'image is', 'images are')} not used, because a name begins with a dot.",
            next_step="rename the folders or files if they belong to the data.",
            cases=cases,
        )


def storage(survey: Survey) -> Iterator[Finding]:
    """How images are stored, where another program may read them differently."""
    kinds: tuple[tuple[str, Callable[[FileFacts], str], tuple[str, str], str], ...] = (
        ("cmyk", lambda facts: _mode(facts, "CMYK"), _are("in CMYK"), "colour profiles are ignored"),
        ("alpha", lambda facts: facts.mode if facts.transparent else "", _have("transparency"), "composited on white"),
        ("deep", _depth, _are("deeper than 8 bits a sample"), "reduced to 8 bits"),
        ("palette", lambda facts: _mode(facts, "P", "PA"), _have("a palette"), "expanded to RGB"),
        ("rotated", _orientation, _are("rotated by EXIF alone"), "turned upright by zoo, but not by every program"),
    )
    for code, detail_of, what, treatment in kinds:
        details = [(facts, detail_of(facts)) for _, _, facts in survey.good_files()]
        cases = tuple(Case(files=(facts.relative,), detail=detail) for facts, detail in details if detail)
        if cases:
            yield Finding(
                code=code,
                severity="warning",
                sentence=f"{counted(len(cases), *what)}: {treatment}.",
                next_step="see docs/preprocessing.md; if this is not what you want, save them as upright 8-bit RGB.",
                cases=cases,
            )


def extreme_sizes(survey: Survey) -> Iterator[Finding]:
    """Images that are too small to show anything, or slow to decode."""
    good = [facts for _, _, facts in survey.good_files()]
    tiny = _sized(facts for facts in good if min(facts.width, facts.height) < TINY)
    huge = _sized(facts for facts in good if facts.width * facts.height > HUGE)
    if tiny:
        yield Finding(
            code="tiny",
            severity="warning",
            sentence=f"{counted(len(tiny), 'image has', 'images have')} a side below {TINY} pixels: enlarged to the "
            "backbone's input size, there is almost nothing to see.",
            next_step="use larger images, or remove these.",
            cases=tiny,
        )
    if huge:
        yield Finding(
            code="huge",
            severity="warning",
            sentence=f"{counted(len(huge), 'image has', 'images have')} over {HUGE // 1_000_000} megapixels: "
            "decoding is slow and takes much memory, and resizing discards most of the pixels.",
            next_step="save them smaller, for example with 1,000 pixels a side.",
            cases=huge,
        )


def _are(what: str) -> tuple[str, str]:
    return f"image is {what}", f"images are {what}"


def _have(what: str) -> tuple[str, str]:
    return f"image has {what}", f"images have {what}"


def _mode(facts: FileFacts, *modes: str) -> str:
    return facts.mode if facts.mode in modes else ""


def _depth(facts: FileFacts) -> str:
    return f"{facts.bits} bits" if facts.bits > 8 else ""


def _orientation(facts: FileFacts) -> str:
    return f"orientation {facts.orientation}" if facts.orientation != 1 else ""


def _is_unsupported_image(skipped: Skipped, facts: FileFacts) -> bool:
    # What Pillow has opened is an image, whatever its name says.
    return skipped.reason == "not an image" and bool(facts.format)


def _content(facts: FileFacts) -> str:
    return f"the content is {facts.format}, {facts.width} x {facts.height}"


def _suffix(facts: FileFacts) -> str:
    return PurePosixPath(facts.relative).suffix.lower()


def _usual_format(format: str) -> str:
    # MPO is a JPEG file with several pictures of one shot; cameras name it .jpg.
    return "JPEG" if format == "MPO" else format


def _sized(files: Iterable[FileFacts]) -> tuple[Case, ...]:
    return tuple(Case(files=(facts.relative,), detail=f"{facts.width} x {facts.height}") for facts in files)
