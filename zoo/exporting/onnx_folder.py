"""What lies beside an ONNX file that takes pictures: class names, an example for Python and one for JavaScript."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoo.exporting.comparisons import Int8Comparison, PictureComparison
from zoo.exporting.source import ExportSource
from zoo.storage.atomic import json_text

CLASSES, COMPARISON, PYTHON, JAVASCRIPT, README = (
    "classes.json",
    "comparison.json",
    "example.py",
    "example.mjs",
    "README.md",
)
_PYTHON = '''"""python example.py PICTURE: the probability of every class, by the file {file} alone."""

import io, json, pathlib, sys
import numpy, onnxruntime
from PIL import Image, ImageOps

model = pathlib.Path(__file__).with_name("{file}")  # beside this file, wherever it is called from
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
content = pathlib.Path(sys.argv[1]).read_bytes()  # by name, Pillow reads some TIFF files wrong that lie on their side
with Image.open(io.BytesIO(content)) as opened:
    tags = getattr(opened, "tag_v2", {{}})  # of a TIFF file
    bits, sign, planes = max(tags.get(258, (16,))), tags.get(339, (1,))[0], tags.get(284, 1)
    of_16_bits = opened.mode.startswith("I;16") or (opened.mode, opened.format) == ("I", "PPM")
    plain = of_16_bits and bits == 16 and tags.get(262) != 0 and "transparency" not in opened.info  # 0: white is zero
    if (opened.mode[0] in "IF" and not plain) or sign == 2 or (tags and bits == 16 and planes == 2):
        sys.exit("This example reads 8 bits, and plain 16 bits: scale the values to 0..255, and save it with 8 bits.")
    picture = ImageOps.exif_transpose(opened)
if of_16_bits:  # the upper 8, where Pillow would cut off all above 255
    picture = Image.fromarray((numpy.asarray(picture) >> 8).astype("uint8"))
if picture.has_transparency_data:  # what is transparent is white
    picture = picture.convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
picture = picture.convert("RGB")
(probabilities,) = session.run(["probabilities"], {{"pictures": numpy.asarray(picture)[None]}})
for name, probability in sorted(zip(classes, probabilities[0].tolist()), key=lambda pair: -pair[1]):
    print(f"{{probability:.4f}}  {{name}}")
'''
_JAVASCRIPT = """// const session = await ort.InferenceSession.create("{file}"), and in node of the bytes of that file.
// In a page, a canvas's getImageData(0, 0, width, height) gives `{{ data, width, height }}`.
import * as ort from "onnxruntime-web";

/** -> [[class, probability], ...], the most probable first; `data`: RGBA bytes, `classes`: what {classes} holds. */
export async function classify(session, classes, {{ data, width, height }}) {{
  const rgb = new Uint8Array(3 * width * height);
  for (let index = 0; index < rgb.length; index++) {{
    const pixel = 4 * Math.floor(index / 3), alpha = data[pixel + 3] / 255;
    rgb[index] = Math.round(data[pixel + (index % 3)] * alpha + 255 * (1 - alpha)); // what is transparent is white
  }}
  const pictures = new ort.Tensor("uint8", rgb, [1, height, width, 3]);
  const {{ probabilities }} = await session.run({{ pictures }});
  return classes.map((name, index) => [name, probabilities.data[index]]).sort((one, other) => other[1] - one[1]);
}}
"""
_README = """# {backbone} as ONNX, {count} classes

`{file}` takes `pictures`, uint8 [N, height, width, 3]: RGB, upright, of any size, all of a batch of one size, what
is transparent laid on white, and of 16 bits the upper 8. It gives `probabilities` and `logits`, float32 [N, {count}].
Resize, crop and normalisation are in the graph, so the pixels go in as they are.

- `{classes}`: the class names in the order of the probabilities; they are in the file's metadata, too
- `{python}`: `python {python} PICTURE`. It reads 8 bits, and 16 bits without a sign, as zoo does. It refuses what zoo
  converts by rules of its own (12 and 32 bits, floats, signed, WhiteIsZero): scale it to 0..255, save it with 8 bits
- `{javascript}`: a function for onnxruntime-web, in a page or in node. It takes the 8-bit pixels that a page or a
  library decoded; of over 8 bits, and of colour profiles, browsers make other pixels than zoo
- `{comparison}`: how the file was compared before it was kept, which is this in words:

{compared}"""


def write_folder(
    folder: Path, file: str, source: ExportSource, compared: Mapping[str, PictureComparison | Int8Comparison]
) -> None:
    """Write everything that lies beside `file` in the folder; `compared` has what was found, by name."""
    named = {
        "file": file,
        "classes": CLASSES,
        "python": PYTHON,
        "javascript": JAVASCRIPT,
        "comparison": COMPARISON,
        "backbone": source.config.backbone.name,
        "count": len(source.config.classes),
        "compared": "".join(f"- `{name}`: {found}\n" for name, found in compared.items()),
    }
    # Class names only go into JSON: in the examples they would be code.
    texts = {
        CLASSES: json_text(list(source.config.classes)),
        COMPARISON: json_text({name: found.to_dict() for name, found in compared.items()}),
        PYTHON: _PYTHON.format(**named),
        JAVASCRIPT: _JAVASCRIPT.format(**named),
        README: _README.format(**named),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
