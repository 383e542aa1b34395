"""Nothing that is committed holds a row, an ID, a note, a path or a name of the lab's.

Names that stand in the lab's documents are known here by their hash alone; whatever stands in its tables is read from them
at test time, where they are."""
import base64
import hashlib
import json
import re
import subprocess
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = {  # first 16 hex digits of sha256("crosssuck:" + lower-case word): people, accounts, users, the recorder, folders of the lab
    "28ef6bb8a7709fa9", "313d2866545e0efc", "360349b65e981db9", "9c97af78ff0c15b8",
    "9f2b22c99b531dfc", "ac67ceea0c348624", "d21cfd676416e512",
}
VIDEO_PATH = re.compile(r"(?i)\b([A-Z]):(?:\\{1,4}|/)(?!/)([^\"'\n<>|]{0,200}?)\.(?:mp4|avi|mkv|dav)\b")
REAL_DRIVES = "CE"  # no lesson or test of ours makes up a path on these; they use V:, D:, Q:, Z:
INVENTED = re.compile(r"SIM|REC|CAM|TEST|R?\d*$", re.IGNORECASE)  # how invented recorders begin
RECORDING = re.compile(r"\b([A-Za-z0-9]{4,12})_ch\d+_\w+?_(\d{14})_(\d{14})")


def word_hash(word: str) -> str:
    return hashlib.sha256(f"crosssuck:{word.lower()}".encode()).hexdigest()[:16]


def committed() -> list[Path]:
    "Files that git tracks or would track."
    out = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True, check=True).stdout.decode()
    return sorted(p for name in out.split("\0") if name and (p := ROOT / name).is_file())


def png_text(data: bytes) -> str:
    "The text of a PNG: its text chunks, unpacked."
    found, at = [], 8
    while at + 8 <= len(data):
        n, kind = int.from_bytes(data[at:at + 4], "big"), data[at + 4:at + 8]
        body = data[at + 8:at + 8 + n]
        if kind == b"tEXt":
            found.append(body)
        elif kind in (b"zTXt", b"iTXt"):
            head, _, rest = body.partition(b"\0")
            found.append(head)
            for cut in range(min(len(rest), 80)):
                try:
                    found.append(zlib.decompress(rest[cut:]))
                    break
                except zlib.error:
                    continue
            else:
                found.append(rest)
        at += 12 + n
    return b"\n".join(found).decode("latin-1")


def pictures(tree) -> list[bytes]:
    "Pictures of a notebook: outputs and attachments."
    if isinstance(tree, dict):
        own = [base64.b64decode("".join(v)) for k, v in tree.items() if k in ("image/png", "image/jpeg") and isinstance(v, str | list)]
        return own + [p for k, v in tree.items() if not k.startswith("image/") for p in pictures(v)]
    return [p for v in tree for p in pictures(v)] if isinstance(tree, list) else []


def texts(tree) -> list[str]:
    if isinstance(tree, dict):
        return [t for k, v in tree.items() if k not in ("image/png", "image/jpeg") for t in texts(v)]
    if isinstance(tree, list):
        return ["".join(tree)] if tree and all(isinstance(x, str) for x in tree) else [t for v in tree for t in texts(v)]
    return [tree] if isinstance(tree, str) else []


def text_of(path: Path) -> str:
    "All text of a file, that of a notebook's outputs and of a picture's chunks included."
    data = path.read_bytes()
    if path.suffix == ".ipynb":
        tree = json.loads(data)
        return "\n".join([*texts(tree), *(png_text(p) if p.startswith(b"\x89PNG") else p.decode("latin-1") for p in pictures(tree))])
    if data.startswith(b"\x89PNG"):
        return png_text(data)
    return data.decode("utf-8", errors="replace")


def plain(text: str) -> str:
    "Text without tags, all white space one blank: what a reader sees side by side stands side by side."
    return re.sub(r"\s+", " ", re.sub(r"</?(td|th|tr|table|tbody|thead|div|b|i|span)\b[^>]*>", " ", text))


def faults(text: str, lab: dict | None = None) -> list[str]:
    "What in a text belongs to the lab; the finding itself is not repeated in full."
    found = []
    words = set(re.findall(r"[A-Za-z0-9]+(?:[-_.][A-Za-z0-9]+)*", text))
    words |= {part for w in words for part in re.split(r"[-_.]", w)}
    found += [f"a name of the lab's documents ({w[:2]}…)" for w in sorted(words) if word_hash(w) in NAMES]
    for drive, rest in VIDEO_PATH.findall(text):
        named = RECORDING.search(rest)
        if drive.upper() in REAL_DRIVES or (named and not INVENTED.match(named[1])):
            found.append(f"a video's path on drive {drive}:")
    found += lab_faults(text, lab) if lab else []
    return found


def lab_faults(text: str, lab: dict) -> list[str]:
    found, flat = [], plain(text)
    found += [f"the drive's folder ({w[:2]}…)" for w in lab["folders"] if w in text]
    found += ["a recorded file's name" for recorder, *_ in RECORDING.findall(text) if recorder in lab["recorders"]]
    found += [f"a row of {name}" for name, rows in lab["rows"].items() if rows & {line.strip() for line in text.splitlines()}]
    found += ["an annotator's note" for note in lab["notes"] if note in flat.lower()]
    found += [f"a calf's ID ({i[:1]}…)" for i in lab_ids(flat, lab["ids"])]
    return found


def lab_ids(flat: str, ids: set[str]) -> list[str]:
    "Numbers that are calf IDs and stand like one: two near each other, or one near a word that says so."
    hits = [m for m in re.finditer(r"(?<![\w.,:/#-])(\d{3,5})(?![\w.]|,\d{3}|:\d)", flat) if m[1] in ids]
    near = [a[1] for a, b in zip(hits, hits[1:], strict=False) if b.start() - a.end() <= 12]
    said = [m[1] for m in hits if re.search(r"(?i)\b(calf|calves|initiator|receiver|ear.?tag|suspect|dyad)\b", flat[max(0, m.start() - 40):m.end() + 20])]
    return near + said


@pytest.fixture(scope="module")
def lab_words(lab) -> dict:
    "What must never be committed, read from the lab's own files."
    import pandas as pd
    tables = {p.name: pd.read_csv(p, dtype=str, keep_default_na=False) for p in (*lab.glob("*.csv"), *(lab / "E1").glob("*.csv"))}
    paths = set().union(*(set(t[c]) for t in tables.values() for c in ("path", "video_path") if c in t))
    parts = {tuple(p.split("\\")) for p in paths}
    book = pd.read_excel(lab / "final_manifest.xlsx", sheet_name=None, dtype=str, keep_default_na=False, header=None)
    notes, ids = set(), set()
    for sheet in book.values():
        head = [str(x).lower() for x in sheet.iloc[0]]
        for k, name in enumerate(head):
            if "note" in name or "comment" in name:
                notes |= {" ".join(str(x).lower().split()) for x in sheet.iloc[1:, k]}
            if "initiator" in name or "receiver" in name:
                ids |= {str(x).strip().removesuffix(".0") for x in sheet.iloc[1:, k]}
    master = tables["MASTER_LINKED_v4.csv"]
    ids |= set(master.initiator_id) | set(master.receiver_id)
    rows = {p.name: {line.strip() for line in p.read_text(encoding="utf-8-sig").splitlines()[1:] if len(line) > 25} for p in (*lab.glob("*.csv"), *(lab / "E1").glob("*.csv"))}
    events = [",".join(map(str, r)) for r in master.iloc[:, :12].itertuples(index=False)]
    return {"folders": {p[1] for p in parts if len(p) > 3 and " " in p[1]}, "recorders": {m[1] for p in paths if (m := RECORDING.search(p))},
            "rows": {**rows, "the events": set(events)}, "notes": {n for n in notes if len(n) > 14}, "ids": {i for i in ids if re.fullmatch(r"\d{3,5}", i)}}


def test_nothing_committed_names_the_lab():
    files = committed()
    assert len(files) > 10
    found = {p.relative_to(ROOT).as_posix(): sorted(set(f)) for p in files if (f := faults(text_of(p) + "\n" + p.relative_to(ROOT).as_posix()))}
    assert not found, found


@pytest.mark.lab
def test_nothing_committed_holds_the_labs_rows(lab_words):
    assert lab_words["folders"] and lab_words["recorders"] and len(lab_words["notes"]) > 3 and len(lab_words["ids"]) > 20, "the lab's files were not understood"
    found = {p.relative_to(ROOT).as_posix(): sorted(set(f)) for p in committed() if (f := lab_faults(text_of(p), lab_words))}
    assert not found, found


@pytest.mark.lab
def test_scan_sees_each_kind_of_leak(lab, lab_words, tmp_path):
    "Each kind, put into a text, a notebook and a picture of this test's own folder, is found."
    from PIL import Image, PngImagePlugin
    lines = (lab / "MASTER_LINKED_v4.csv").read_text(encoding="utf-8-sig").splitlines()
    row = next(line for line in lines[1:] if line.count(",") > 12)
    cells = row.split(",")
    kinds = {"row": row, "path": next(c for c in cells if "\\" in c), "file": next(c for c in cells if c.endswith(".mp4") and "\\" not in c),
             "dyad": f"<td>{cells[8]}</td>\n<td>{cells[9]}</td>", "id": f"the receiver was {cells[9]}", "note": max(lab_words["notes"], key=len)}
    for kind, leak in kinds.items():
        (tmp_path / "a.md").write_text(f"Some words.\n{leak}\nMore.")
        assert lab_faults(text_of(tmp_path / "a.md"), lab_words), f"a {kind} in a text is not seen"
        nb = {"cells": [{"cell_type": "code", "source": [], "outputs": [{"data": {"text/plain": leak.splitlines(keepends=True)}}]}]}
        (tmp_path / "a.ipynb").write_text(json.dumps(nb))
        assert lab_faults(text_of(tmp_path / "a.ipynb"), lab_words), f"a {kind} in a notebook's output is not seen"
    for packed in (False, True):
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", row, zip=packed)
        Image.new("L", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
        (tmp_path / "b.ipynb").write_text(json.dumps({"cells": [{"outputs": [{"data": {"image/png": base64.b64encode((tmp_path / "a.png").read_bytes()).decode()}}]}]}))
        assert lab_faults(text_of(tmp_path / "a.png"), lab_words) and lab_faults(text_of(tmp_path / "b.ipynb"), lab_words)


@pytest.mark.lab
def test_names_are_known_by_their_hash(lab_words):
    recorder = next(iter(lab_words["recorders"]))
    assert word_hash(recorder) in NAMES and faults(f"see {recorder.lower()}_ch8_main.mp4")
    assert any(faults(f"from {w}") for w in next(iter(lab_words["folders"])).split())


def test_scan_knows_paths_of_a_windows_drive():
    assert faults("E:" + "\\somebody\\Group 1\\a.mp4") and faults('"E:' + "\\\\\\\\x\\\\\\\\b.MP4\"")
    assert faults("Q:" + "\\Group 1\\B7777K_ch8_main_20240102060000_20240102063000.mp4")
    assert not faults(r"V:\Simulated calves\Group 1 Day 1\Cam 8\SIMC01_ch8_main_20240102060000_20240102063000.mp4") and not faults("http://example.org/a.mp4") and not faults(r"D:\videos\a.mp4")
