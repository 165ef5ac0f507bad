#!/usr/bin/env bash
# rapidocr 3.10.0 (PP-OCRv6, onnxruntime 1.32.0, pillow 13.0.0): an upright line may be read standing on its head.
#
# Before it reads a line RapidOCR asks a small classifier whether it stands on its head, and turns it where that is at
# least 0.9 sure. One would leave that on, as it is by default: it helps with turned pictures, and seems to cost nothing
# for others. But of plainly printed upright lines it turns some, and what comes out is no garbage that one would notice,
# it is other letters, with a score above the threshold of 0.5 at which results are dropped.
#
# Seen, the same picture of three printed lines, with the classifier and without:
#   use_cls=True   a STOLEN 1.00, car key 1.00, áp poo 0.80
#   use_cls=False  a STOLEN 1.00, car key 1.00, good day 1.00
# Whoever looks for words in pictures must read doubtful lines both ways round and take the surer reading.
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q rapidocr==3.10.0 onnxruntime==1.32.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr import RapidOCR

LINES = ["a STOLEN", "car key", "good day"]
picture = Image.new("RGB", (256, 256), (200, 220, 240))
for top, line in zip((40, 100, 200), LINES):
    ImageDraw.Draw(picture).text((20, top), line, fill=(20, 20, 20), font=ImageFont.load_default(32))
pixels = np.asarray(picture.resize((736, 736), Image.Resampling.BILINEAR))[:, :, ::-1].copy()
reader = RapidOCR(params={"Global.log_level": "critical"})
found = {}
for turned in (True, False):
    seen = reader(pixels, use_cls=turned)
    found[turned] = list(seen.txts)
    print(f"use_cls={turned!s:6}", ", ".join(f"{text} {score:.2f}" for text, score in zip(seen.txts, seen.scores)))
raise SystemExit(0 if found[False] == LINES and found[True] != LINES else 1)
PYTHON
