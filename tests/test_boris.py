"BORIS's tables, old and new, tsv and csv, in and out: what maps to what, what is doubted, what is left out and why."
import datetime as dt
import io

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from crosssuck import manifest as m
from crosssuck.core import UserError, write_csv, write_text
from crosssuck.simulation import tiny_events

A, B = "Group 3 Day 1/Cam 5/REC_ch5_main_20250310060000_20250310063000.mp4", "Group 3 Day 1/Cam 5/REC_ch5_main_20250310063000_20250310070000.mp4"
SAME = ["event_idx", "group", "day", "date", "start_time", "duration_sec", "behavior", "initiator_id", "receiver_id", "ended_by", "pen_location"]


def rows(titles: str, *lines: str) -> str:
    return "\n".join((titles, *lines)) + "\n"


def separated_by(text: str, separator: str) -> str:
    return pd.read_csv(io.StringIO(text), sep="\t", dtype=str, keep_default_na=False).to_csv(sep=separator, index=False)


# aggregated events of BORIS 8 and later: the files of the players in one cell, their lengths in another, a modifier a column
NEW = ("Observation id\tObservation date\tDescription\tObservation type\tSource\tTime offset (s)\tCoding duration\tMedia duration (s)\tFPS (frame/s)\tSubject\t"
       "Observation duration by subject by observation\tBehavior\tBehavioral category\tModifier #1\tModifier #2\tBehavior type\tStart (s)\tStop (s)\tDuration (s)\tMedia file name\t"
       "Image index start\tImage index stop\tImage file path start\tImage file path stop\tComment start\tComment stop")


def new(start, stop, *, behavior="ear", subject="401", m1="402", m2="receiver", kind="STATE", media=A, source=f"player #1:{A};{B}|player #2:other.mp4", lengths="1799.900;1800.100|1799.000",
        offset="0.000", date="2025-04-01 15:00:00", obs="morning", comment=""):
    return "\t".join([obs, date, "d", "Media file", source, offset, "99.0", lengths, "15.000;15.000|25.000", subject, "12.3", behavior, "oral", m1, m2, kind, start, stop, "NA", media,
                      "1", "2", "NA", "NA", comment, ""])


# aggregated events of BORIS 4 to 7: one file a row, the total length, all modifiers in one cell
OLD = ("Observation id\tObservation date\tDescription\tMedia file\tTotal length\tFPS\tpen\tSubject\tBehavior\tBehavioral category\tModifiers\tBehavior type\tStart (s)\tStop (s)\tDuration (s)\t"
       "Comment start\tComment stop")


def old(start, stop, *, behavior="tail", subject="401", modifiers="402|initiator|back", kind="STATE", media=A, total="1799.900", obs="one"):
    return "\t".join([obs, "2025-04-01 15:00:00", "", media, total, "15.0", "3", subject, behavior, "", modifiers, kind, start, stop, "", "", ""])


# tabular events: BORIS 8 names observation and file in each row, older versions write facts above the table
EDGES = ("Observation id\tObservation date\tDescription\tObservation duration\tObservation type\tSource\tTime offset (s)\tMedia duration (s)\tFPS\tSubject\tBehavior\tBehavioral category\t"
         "Modifier #1\tBehavior type\tTime\tMedia file name\tImage index\tImage file path\tComment")


def edge(time, kind, *, behavior="ear", subject="401", m1="402", obs="morning", comment=""):
    return "\t".join([obs, "2025-04-01 15:00:00", "", "3600", "Media file(s)", f"player #1:{A};{B}", "0.0", "1799.900;1800.100", "15.000;15.000", subject, behavior, "", m1, kind, time,
                      A, "10", "NA", comment])


BLOCK = f"""Observation id\tmorning\t\t\t\t\t\t\t
\t\t\t\t\t\t\t\t
Media file(s)\t\t\t\t\t\t\t\t
Player #1\t{A}\t\t\t\t\t\t\t
Observation date\t2025-04-01 15:00:00\t\t\t\t\t\t\t
Description\t\t\t\t\t\t\t\t
Time offset (s)\t0.0\t\t\t\t\t\t\t
independent variables\t\t\t\t\t\t\t\t
variable\tvalue\t\t\t\t\t\t\t
weather\train\t\t\t\t\t\t\t
\t\t\t\t\t\t\t\t
Time\tMedia file path\tTotal length\tFPS\tSubject\tBehavior\tBehavioral category\tComment\tStatus
"""


@pytest.fixture
def read(tmp_path, root):
    def go(text, name="b.tsv", rules=None, **kw):
        return m.read_boris([write_text(tmp_path / name, text)], rules, **kw)
    return go


def lost(got) -> list[tuple]:
    q = got.quarantine[got.quarantine.kind == "rejected"]
    return [(r.row, r.column, r.value, r.reason) for r in q.itertuples()]


def test_aggregated_events_of_new_versions(read):
    got = read(rows(NEW, new("25.300", "27.800", comment="look"), new("1810.000", "1810.000", kind="POINT", behavior="tail", media=B)))
    e = got.events
    assert e[["group", "day", "date", "start_time", "end_time", "duration_sec", "behavior", "initiator_id", "receiver_id", "ended_by", "note"]].values.tolist() == [
        [3, 1, "3/10/2025", "6:00:25.3", "6:00:27.8", 2.5, "ear", "401", "402", "receiver", "look"],
        [3, 1, "3/10/2025", "6:30:10.1", "6:30:10.1", 0.0, "tail", "401", "402", "receiver", ""]]  # 1810 s - 1799.9 s into the second file, whose clock begins at 6:30:00
    assert (e.end_s == e.start_s + e.duration_sec + 1).all() and not lost(got)
    assert got.totals["boris"] == {"rows": 2, "media_files": 2, "fps": [15, 25]}


def test_aggregated_events_of_old_versions(read, root, tmp_path):
    text = (root / "configs" / "workbook_lab.yaml").read_text().replace("  group: group ", "  group: pen ")
    got = read(rows(OLD, old("25.3", "27.8"), old("30.0", "30.0", kind="POINT"), old("31.0", "NA", kind="POINT")), rules=write_text(tmp_path / "r.yaml", text))
    assert got.events[["group", "start_time", "duration_sec", "receiver_id", "ended_by", "pen_location"]].values.tolist() == [
        [3, "6:00:25.3", 2.5, "402", "initiator", "back"], [3, "6:00:30", 0, "402", "initiator", "back"], [3, "6:00:31", 0, "402", "initiator", "back"]]


@pytest.mark.parametrize("separator, name", [("\t", "b.tsv"), (",", "b.csv"), (";", "b.csv")])
def test_tabular_events_with_any_separator(read, separator, name):
    text = rows(EDGES, edge("25.3", "START"), edge("26.0", "START", subject="403", m1="401"), edge("27.8", "STOP", comment="gone"), edge("29.0", "STOP", subject="403", m1="401"),
                edge("30.0", "POINT", behavior="tail"))
    got = read(separated_by(text, separator), name)
    assert got.events[["start_time", "duration_sec", "behavior", "initiator_id", "receiver_id"]].values.tolist() == [
        ["6:00:25.3", 2.5, "ear", "401", "402"], ["6:00:26", 3.0, "ear", "403", "401"], ["6:00:30", 0, "tail", "401", "402"]]
    assert got.events.note.tolist() == ["gone", "", ""] and got.events.event_idx.tolist() == [0, 1, 4]


def test_facts_above_an_old_table_are_used(read):
    got = read(BLOCK + rows(f"25.3\t{A}\t1799.9\t15.0\t401\tear\t\tan ear\tSTART", f"0:00:27.8\t{A}\t1799.9\t15.0\t401\tear\t\t\tSTOP"))
    e = got.events.iloc[0]
    assert (e.group, e.day, e.start_time, e.duration_sec, e.initiator_id, e.receiver_id, e.note) == (3, 1, "6:00:25.3", 2.5, "401", "", "an ear")
    assert got.quarantine.row.tolist() == [13] and (got.quarantine.sheet == "b.tsv").all()  # only the calf that is seen once


@pytest.mark.parametrize("line, column, value, reason", [
    (new("later", "27"), "Start (s)", "later", "no time can be read"), (new("NA", "NA"), "Start (s)", "NA", "no time can be read"), (new("25", "NA"), "Stop (s)", "NA", "no stop can be read"),
    (new("25", "24"), "Stop (s)", "24", "the stop is before the start"), (new("25", "26", offset="30.0"), "Start (s)", "25", "before the beginning of the media (less the time offset)"),
    (new("3700", "3701"), "Start (s)", "3700", "after the end of the media, which last 3600 s"), (new("1810", "1811", lengths="NA", media=B), "Start (s)", "1810", "the export does not say how long the files before it are"),
    (new("25", "26", media="x.mp4", source="x.mp4", lengths="99", date="NA", obs="noon"), "Observation date", "NA", "neither the media's name nor the observation's date holds a clock"),
    (new("25", "26", behavior="lying"), "Behavior", "lying", "cannot be read"), (new("25", "26", behavior=""), "Behavior", "", "an empty cell"),
    (new("25", "26", media="REC_20250310060000.mp4", source="REC_20250310060000.mp4", lengths="99", obs="noon"), "Media file name", "", "an empty cell")])
def test_what_cannot_be_read_is_put_down_with_line_column_and_value(read, line, column, value, reason):
    good = new("100", "101")
    got = read(rows(NEW, good, line, good.replace("100", "200").replace("101\t", "201\t", 1)))
    assert lost(got) == [(3, column, value, reason)] or (column == "Media file name" and lost(got)[0][0] == 3 and lost(got)[0][3] == reason)
    assert got.events.event_idx.tolist() == [0, 2] and got.totals["rejected_rows"] == 1


@pytest.mark.parametrize("lines, reasons", [
    ([edge("5", "START")], ["a START without a STOP"]), ([edge("5", "STOP")], ["a STOP without a START"]), ([edge("5", "START"), edge("6", "STOP", m1="499")], ["a START without a STOP", "a STOP without a START"]),
    ([edge("5", "START"), edge("6", "START"), edge("7", "STOP")], ["a START without a STOP"]), ([edge("5", "BEGIN")], ["neither START, STOP nor POINT"]), ([edge("x", "POINT")], ["no time can be read"]),
    ([edge("5", "START"), edge("6", "STOP", obs="noon")], ["a START without a STOP", "a STOP without a START"])])
def test_edges_without_a_partner_are_left_out(read, lines, reasons):
    got = read(rows(EDGES, edge("100", "POINT"), *lines))
    assert sorted(r[3] for r in lost(got)) == sorted(reasons) and all(r[1] in ("Behavior type", "Time") for r in lost(got))
    assert len(got.events) == 1 + (len(lines) == 3)


def test_a_time_offset_is_no_part_of_the_place(read):
    plain, late = read(rows(NEW, new("25", "26"))), read(rows(NEW, new("21625", "21626", offset="21600.0")), "late.tsv")
    early = read(rows(NEW, new("15", "16", offset="-10.0")), "early.tsv")
    for got in (late, early):
        assert got.events[["date", "start_time"]].values.tolist() == plain.events[["date", "start_time"]].values.tolist()


def test_a_wrong_name_of_the_file_is_doubted_and_the_time_believed(read):
    got = read(rows(NEW, new("1810", "1811", media=A)))
    assert got.events.start_time.tolist() == ["6:30:10.1"] and "the named file does not show this time" in got.quarantine.reason.tolist()


def test_without_a_clock_in_the_name_the_date_of_the_observation_is_used_and_flagged(read):
    got = read(rows(NEW, new("25", "26", media="GX01.MP4", source="player #1:GX01.MP4", lengths="99"), new("85", "86", media="GX01.MP4", source="player #1:GX01.MP4", lengths="99")),
               rules=with_boris(group=3, day=1))
    assert got.events[["date", "start_time", "group", "day"]].values.tolist() == [["4/1/2025", "15:00:25", 3, 1], ["4/1/2025", "15:01:25", 3, 1]]
    assert got.events["flags"].str.contains("observation_date").all() and (got.quarantine.reason == "no clock in the media's name").sum() == 2
    live = read(rows(NEW, new("25", "26", media="NA", source="NA", lengths="NA")), "live.tsv", rules=with_boris(group=3))
    assert live.events[["date", "start_time", "day"]].values.tolist() == [["4/1/2025", "15:00:25", 1]] and not live.events["flags"].str.contains("observation_date").any()


def with_boris(**changes) -> m.Rules:
    import dataclasses
    rules = m.read_rules()
    return dataclasses.replace(rules, boris=dataclasses.replace(rules.boris, **changes))


def test_two_files_of_unknown_length_have_the_observations_time_where_no_name_has_a_clock(read):
    got = read(rows(OLD, old("25", "26", media="a.mp4", total="99"), old("70", "71", media="b.mp4", total="99")), rules=with_boris(group="pen"))
    assert got.events.start_time.tolist() == ["15:00:25", "15:01:10"] and got.events["flags"].str.contains("observation_date").all()
    known = read(rows(OLD, old("25", "26", media=A, total="3600"), old("1850", "1851", media=B, total="3600")) + old("5", "6", obs="other") + "\n", "c.tsv", rules=with_boris(group="pen"))
    assert [r[3] for r in lost(known)] == [m.UNPLACED] * 2 and len(known.events) == 1


def test_files_with_other_columns_are_joined_without_inventing_a_note(tmp_path):
    one, two = write_text(tmp_path / "one.tsv", rows(NEW, new("25", "26", comment="look"))), write_text(tmp_path / "two.tsv", BLOCK + f"5\t{A}\t1799.9\t15.0\t401\tear\t\t\tPOINT\n")
    assert m.read_boris([one, two]).events[["note", "receiver_id", "pen_location"]].values.tolist() == [["look", "402", ""], ["", "", ""]]


def test_group_and_day_come_from_a_column_before_the_name_and_days_are_counted_at_last(read):
    titles, line = NEW.replace("Subject\t", "Barn\tSubject\t", 1), new("25", "26")
    cells = line.split("\t")
    got = read(rows(titles, "\t".join([*cells[:9], "7", *cells[9:]])), rules=with_boris(group="Barn"))
    assert (got.events.group.item(), got.events.day.item()) == (7, 1)
    nameless = [new("25", "26", media=f"REC_2025031{k}060000.mp4", source=f"REC_2025031{k}060000.mp4", lengths="99", obs=str(k)) for k in (5, 2)]
    assert read(rows(NEW, *nameless), rules=with_boris(group=1)).events.day.tolist() == [2, 1]
    with pytest.raises(UserError, match=r"b.tsv: no column 'Stall' \(boris.group\); name it otherwise in the rules"):
        read(rows(NEW, line), rules=with_boris(group="Stall"))


def test_many_files_are_one_manifest(tmp_path):
    paths = [write_text(tmp_path / f"{k}.tsv", rows(NEW, new("25", "26", obs=k), new("60", "61", obs=k, behavior="x"))) for k in ("one", "two")]
    got = m.read_boris(paths)
    assert got.events.event_idx.tolist() == [0, 2] and got.events.duplicate_of.tolist() == ["", "0"]
    assert [(r.sheet, r.row) for r in got.quarantine[got.quarantine.kind == "rejected"].itertuples()] == [("one.tsv", 3), ("two.tsv", 3)]
    twice = got.quarantine[got.quarantine.reason == "the same event twice"].iloc[0]
    assert (twice.sheet, twice.row) == ("two.tsv", 2) and "it repeats event 0, row 2" in twice.action


@pytest.mark.parametrize("text, words", [
    ("", "no table of events"), ("Subject\tName\n1\tx\n", "no table of events: no line has the titles Subject, Behavior and Start (s) or Time"), (b"\xff\xfe\x00", "cannot be read as text"),
    (rows(NEW), "no row can be read"), (rows(NEW, new("5", "6", behavior="lying")), "no row can be read: Behavior is 'lying' (in 1 of 1 rows: cannot be read); map it under behavior in the rules (--rules)")])
def test_what_is_no_export_is_refused_in_one_line(tmp_path, text, words):
    path = tmp_path / "b.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as e:
        m.read_boris([path])
    assert words in str(e.value) and "b.tsv" in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(UserError, match="no such file"):
        m.read_boris([tmp_path / "gone.tsv"])


# --- out and in again

@pytest.mark.parametrize("form", ["aggregated", "tabular"])
@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_linked_events_come_back_as_they_were(tmp_path, form, suffix):
    events = tiny_events(200, seed=4)
    got = m.read_boris([m.write_boris(events, tmp_path / f"b.{suffix}", form)])
    assert got.events[SAME].astype(str).values.tolist() == events[SAME].astype(str).values.tolist()
    assert got.totals["boris"]["media_files"] == events.video_path.nunique() and not (got.quarantine.kind == "rejected").any()


event = st.tuples(st.integers(1, 3), st.sampled_from([1, 4]), st.integers(0, 86_000_000), st.integers(0, 300_000), st.sampled_from(m.BEHAVIOURS), st.sampled_from(["7", "007", "x 1", ""]),
                  st.sampled_from(["8", "9", ""]), st.sampled_from(m.ENDINGS[:3]), st.sampled_from(m.PLACES), st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=12))


@settings(max_examples=25, deadline=None)
@given(st.lists(event, min_size=1, max_size=10), st.sampled_from(["aggregated", "tabular"]), st.sampled_from(["tsv", "csv"]), st.randoms(use_true_random=False))
def test_any_events_come_back_as_they_were(tmp_path_factory, events, form, suffix, random):
    t = pd.DataFrame(events, columns=["group", "day", "ms", "lasts_ms", "behavior", "initiator_id", "receiver_id", "ended_by", "pen_location", "note"])
    t["event_idx"] = random.sample(range(5000), len(t))
    t["start_s"], t["duration_sec"], t["behavior_raw"] = t.ms / 1000, t.lasts_ms / 1000, t.behavior
    t["date"] = [m.format_date(dt.date(2024, 12, 30) + dt.timedelta(days=int(d))) for d in t.day]
    t["start_time"] = t.start_s.map(m.format_time)
    t["note"] = t.note.mask(t.note.isin(["NA", "nan"]), "")
    back = m.read_boris([m.write_boris(t, tmp_path_factory.mktemp("boris") / f"b.{suffix}", form)]).events
    want = t.sort_values("event_idx")
    for c in SAME + ["note"]:
        assert back[c].astype(str).tolist() == want[c].astype(back[c].dtype).astype(str).tolist(), c
    assert (back.start_s.to_numpy() == want.start_s.to_numpy()).all()


def test_faults_of_writing(tmp_path):
    events = tiny_events(5)
    for call, words in ((lambda: m.write_boris(events, tmp_path / "b.ods"), "name it .tsv or .csv"), (lambda: m.write_boris(events, tmp_path / "b.csv", "wide"), "use aggregated or tabular"),
                        (lambda: m.write_boris(events.assign(video_path="a;b.mp4"), tmp_path / "b.csv"), "holds ; or |")):
        with pytest.raises(UserError, match=words):
            call()
    assert not list(tmp_path.iterdir())


def test_the_verbs(tmp_path, root):
    from crosssuck.cli import app
    events = tiny_events(60)
    events["end_time"] = [m.format_time(s) for s in events.start_s + events.duration_sec]
    write_csv(tmp_path / "linked.csv", events)
    for form in ("aggregated", "tabular"):
        out = CliRunner().invoke(app, ["export-boris", str(tmp_path / "linked.csv"), "--out", str(tmp_path / f"{form}.tsv"), "--form", form])
        assert out.exit_code == 0 and "60 events" in out.output
        back = CliRunner().invoke(app, ["import-boris", str(tmp_path / f"{form}.tsv"), "--out", str(tmp_path / form), "--cameras", str(root / "configs/cameras_lab.yaml")])
        assert back.exit_code == 0 and "60 events of" in back.output, back.output
        again = m.read_events(tmp_path / form / "events.csv")
        assert again[SAME].astype(str).values.tolist() == events[SAME].astype(str).values.tolist()
    bad = CliRunner().invoke(app, ["import-boris", str(tmp_path / "linked.csv"), "--out", str(tmp_path / "none")])
    assert bad.exit_code == 1 and "no table of events" in bad.stderr and len(bad.stderr.splitlines()) == 1 and not (tmp_path / "none").exists()


# --- the lab's own tables: nothing leaves the test

@pytest.mark.lab
@pytest.mark.parametrize("form, name", [("aggregated", "b.tsv"), ("tabular", "b.csv")])
def test_the_labs_events_go_through_boris_and_link_as_before(lab, root, tmp_path, form, name):
    from crosssuck.cameras import link, parse_names, read_cameras, read_inventory
    master, cameras = m.read_events(lab / "MASTER_LINKED_v4.csv"), read_cameras(root / "configs" / "cameras_lab.yaml")
    got = m.read_boris([m.write_boris(master, tmp_path / name, form)], names=lambda paths: parse_names(paths, cameras.pattern))
    assert got.events[SAME].astype(str).values.tolist() == master[SAME].astype(str).values.tolist()
    assert got.totals["boris"]["media_files"] == 208 and not (got.quarantine.kind == "rejected").any()
    assert (got.totals["suspect_ids"], got.totals["duplicate_pairs"], got.totals["overlapping_pairs"]) == (5, 8, 10)
    linked, _ = link(got.events, read_inventory(lab / "video_inventory.csv"), cameras)
    want = master.set_index("event_idx").loc[linked.event_idx]
    assert len(linked) == 910
    for column in ("camera_id", "video_filename", "event_offset_sec"):
        assert linked[column].tolist() == want[column].tolist(), column


@pytest.mark.lab
def test_the_labs_workbook_goes_through_boris(lab, tmp_path):
    events = m.read_workbook(lab / "final_manifest.xlsx").events
    back = m.read_boris([m.write_boris(events, tmp_path / "b.tsv")]).events
    for c in (*SAME, "behavior_raw", "duplicate_of", "other_class_overlap_s", "note"):
        assert back[c].astype(str).tolist() == events[c].astype(str).tolist(), c
