"""How the sample beside this file was made: python sample.py FOLDER, with debian-384.f16.npy and debian.jsonl.gz.

Twenty packages that a person would ask about are the questions. The sample is their 40 nearest each, by exact cosine,
and as many others, chosen by a fixed seed, as make 4,000 rows; no question is among them. Shuffled.
"""

import gzip
import json
import sys
from pathlib import Path

import numpy as np

ROWS, NEAREST, SEED = 4000, 40, 20240607

QUESTIONS = {
    "stockfish": "play chess against the computer",
    "evince": "read a PDF file",
    "postfix": "run a mail server",
    "vlc": "watch a film and listen to music",
    "gimp": "retouch a photograph",
    "postgresql": "a relational database",
    "nginx": "serve a web site",
    "git": "keep the history of source code",
    "octave": "compute with matrices, as in Matlab",
    "inkscape": "draw a vector picture",
    "audacity": "record and cut sound",
    "wireshark": "see what goes over the network",
    "kicad": "design a circuit board",
    "lilypond": "print sheet music",
    "gnucash": "keep the accounts of a household",
    "borgbackup": "back up files, encrypted",
    "keepassxc": "remember passwords",
    "gcompris-qt": "games from which small children learn",
    "qgis": "make maps",
    "tesseract-ocr": "turn a scanned page into text",
}


def main(source: Path, out: Path) -> None:
    vectors = np.load(source / "debian-384.f16.npy")
    with gzip.open(source / "debian.jsonl.gz", "rt") as f:
        lines = f.read().splitlines()
    row_of = {json.loads(line)["name"]: i for i, line in enumerate(lines)}
    questions = [row_of[name] for name in QUESTIONS]

    scores = vectors[questions].astype(np.float32) @ vectors.astype(np.float32).T
    scores[:, questions] = -np.inf
    nearest = np.unique(np.argsort(-scores, axis=1)[:, :NEAREST])
    rng = np.random.default_rng(SEED)
    rest = np.setdiff1d(np.arange(len(lines)), np.concatenate([nearest, questions]))
    rows = rng.permutation(np.concatenate([nearest, rng.choice(rest, ROWS - len(nearest), replace=False)]))

    np.save(out / "debian-4k.f16.npy", vectors[rows])
    np.save(out / "questions.f16.npy", vectors[questions])
    with gzip.GzipFile(out / "debian-4k.jsonl.gz", "wb", mtime=0) as f:
        f.write("".join(lines[i] + "\n" for i in rows).encode())
    with open(out / "questions.jsonl", "w") as f:
        for i, question in zip(questions, QUESTIONS.values()):
            f.write(json.dumps({"question": question, **json.loads(lines[i])}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)
