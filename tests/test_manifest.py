"Workbook to events: every quirk put down, every fault named, nothing guessed; and the lab's own totals."
import datetime as dt
import json
import os
import re

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosssuck import manifest as m
from crosssuck.core import UserError, write_text
from crosssuck.simulation import tiny_workbook

BOUTS, NEGATIVES, NIGHT = "Final CS bouts", "Similar movements not counted", "Nighttime"


@pytest.fixture(scope="module")
def workbook(tmp_path_factory):
    return tiny_workbook(tmp_path_factory.mktemp("wb") / "workbook.xlsx")


@pytest.fixture
def edit(workbook, tmp_path):
    "Give a function that changes the tiny workbook and returns the path of the changed copy."
    def change(what):
        book = openpyxl.load_workbook(workbook)
        what(book)
        book.save(tmp_path / "changed.xlsx")
        return tmp_path / "changed.xlsx"
    return change


def column(book, title, sheet=BOUTS):
    return next(c.column for c in book[sheet][1] if c.value == title)


def put(title, row, value, sheet=BOUTS):
    def change(book):
        cell = book[sheet].cell(row, column(book, title))
        cell.value = value
        if isinstance(value, float):
            cell.number_format = "General"  # else a fraction of a day would be read as the time that the cell showed before
    return change


# --- cells -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("cell, seconds", [
    (dt.time(6, 0, 25), 21625), ("6:00:25", 21625), (" 06:00:25 ", 21625), ("23:59:59.25", 86399.25), ("12:00:00 AM", 0), ("12:00:01 pm", 43201),
    (0.5, 43200), (0, 0), (dt.datetime(1900, 1, 1, 7, 0), 25200), (dt.timedelta(hours=2), 7200), ("0:00:00", 0),
    ("24:00:00", None), ("6:60:00", None), ("6:00", None), ("6.00.25", None), ("13:00:00 PM", None), ("", None), ("NA", None), (1.5, None), (-0.1, None), ("٦:٠٠:٢٥x", None)])
def test_times(cell, seconds):
    assert m.parse_time(cell) == seconds


@pytest.mark.parametrize("cell, date", [
    ("7/9/24", (2024, 7, 9)), ("07/09/2024", (2024, 7, 9)), ("2024-07-09", (2024, 7, 9)), (dt.datetime(2024, 7, 9, 5), (2024, 7, 9)), (45482, (2024, 7, 9)),
    ("14/7/24", None), ("2/30/24", None), ("7/9", None), ("7/9/124", None), ("9 July", None), (12, None), ("", None), ("7/9/0024", None)])
def test_dates_have_the_month_first_and_are_never_guessed(cell, date):
    assert m.parse_date(cell) == (dt.date(*date) if date else None)


@pytest.mark.parametrize("cell, number", [(4, 4), ("4", 4), (" 4.0 ", 4), (2.5, 2.5), ("0", 0), ("-1", None), (-1, None), ("nan", None), ("inf", None), ("1_0", None), ("4s", None), ("", None), (True, None)])
def test_numbers(cell, number):
    assert m.parse_number(cell) == number and (number is None or m.parse_number(cell, whole=True) == (number if number % 1 == 0 else None))


def test_format_is_the_inverse_of_parse():
    for s in np.random.default_rng(0).integers(0, 86400, 500):
        assert m.parse_time(m.format_time(s)) == s
    assert m.format_time(21625) == "6:00:25" and m.format_time(0) == "0:00:00" and m.format_time(1.5) == "0:00:01.5"
    for k in range(0, 4000, 37):
        day = dt.date(2020, 1, 1) + dt.timedelta(days=k)
        assert m.parse_date(m.format_date(day)) == day


def test_excel_letters_both_ways():
    assert [m.excel_letter(i) for i in (0, 25, 26, 27, 701, 702)] == ["A", "Z", "AA", "AB", "ZZ", "AAA"]
    assert all(m.ord_letter(m.excel_letter(i)) == i for i in range(2000))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 86_399_999))
def test_a_time_survives_writing_and_reading(ms):
    assert m.parse_time(m.format_time(ms / 1000)) == pytest.approx(ms / 1000, abs=1e-9)
    assert m.parse_time(dt.time(ms // 3_600_000, ms // 60_000 % 60, ms // 1000 % 60, ms % 1000 * 1000)) == pytest.approx(ms / 1000, abs=1e-9)
    if ms % 1000 == 0:
        assert m.parse_time(ms / 86_400_000) == ms / 1000  # a fraction of a day that lost its format


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=12) | st.from_regex(r"\A\s?\d{1,3}[:.]\d{1,3}[:.]\d{1,3}( ?[APap][Mm])?\s?\Z") | st.integers() | st.floats() | st.none() | st.booleans())
def test_a_reader_gives_what_is_possible_or_nothing(cell):
    time, date, number, lasts = m.parse_time(cell), m.parse_date(cell), m.parse_number(cell), m.parse_duration(cell)
    assert time is None or 0 <= time < 86400
    assert date is None or dt.date(1900, 1, 1) <= date
    assert number is None or number >= 0
    assert lasts is None or 0 <= lasts <= 86400


@settings(max_examples=200, deadline=None)
@given(st.dates(dt.date(1900, 1, 1), dt.date(2999, 12, 31)))
def test_a_date_is_read_in_the_order_that_the_rules_say(day):
    assert m.parse_date(m.format_date(day)) == m.parse_date(day.isoformat()) == day
    for sign in "/.-":
        assert m.parse_date(f"{day.day}{sign}{day.month}{sign}{day.year}", day_first=True) == day
    if day.year >= 2000:
        assert m.parse_date(f"{day.day}/{day.month}/{day.year % 100:02d}", day_first=True) == day.replace(year=2000 + day.year % 100)
    if day.day > 12:
        assert m.parse_date(f"{day.day}/{day.month}/{day.year}") is None  # never turned round


spans = st.lists(st.tuples(st.integers(1, 2), st.sampled_from(["ear", "tail", "teat"]), st.integers(0, 200), st.integers(1, 40)), max_size=25)


@settings(max_examples=100, deadline=None)
@given(spans, st.integers(0, 5))
def test_the_overlap_of_intervals_is_that_of_their_seconds(rows, pad):
    t = pd.DataFrame(rows, columns=["group", "behavior", "start_s", "lasts"]).astype({"start_s": float}).assign(day=1)
    t["end_s"] = t.start_s + t.lasts
    want = []
    for e in t.itertuples():
        other = t[(t.group == e.group) & (t.behavior == {"ear": "tail", "tail": "ear"}.get(e.behavior))]
        seconds = {s for a, b in zip(other.start_s, other.end_s, strict=True) for s in range(int(a), int(b))}
        want.append(len(seconds & set(range(int(e.start_s) - pad, int(e.end_s) + pad))))
    assert m.other_class_overlap(t, pad).tolist() == want
    both = t.merge(t, on="group")
    pairs = ((both.behavior_x == "ear") & (both.behavior_y == "tail") & (both.start_s_x < both.end_s_y) & (both.start_s_y < both.end_s_x)).sum()
    assert m.count_overlaps(t) == pairs


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 86399), st.integers(0, 3000) | st.none(), st.integers(0, 86399) | st.none())
def test_duration_wins_and_the_end_is_what_it_makes(start, duration, end):
    sheet = m.Sheet("s", pd.DataFrame({"duration_sec": [duration], "end_time": [end]}), {"duration_sec": "D", "end_time": "E"}, {}, 2, 0)
    q = m.Quarantine()
    got = m.read_span(sheet, pd.DataFrame({"start_time": [float(start)], "end_time": [end], "duration_sec": [duration]}), q).iloc[0]
    if duration is None and end is None:
        assert np.isnan(got.duration_sec)
        return
    between = None if end is None else (end - start) % 86400
    assert got.duration_sec == (duration if duration is not None else between)
    assert got.conflict == (duration is not None and end is not None and between != duration)
    assert len(q.rows) == got.conflict + (duration is None) + (end is None)  # each doubt is put down once


# --- the tiny workbook ------------------------------------------------------------------------------------------------

def test_every_row_of_the_tiny_workbook_becomes_an_event(workbook):
    got = m.read_workbook(workbook)
    raw = pd.read_excel(workbook, dtype=str, keep_default_na=False)
    assert len(got.events) == len(raw) and got.events.event_idx.tolist() == list(range(len(raw)))
    assert got.events.behavior_raw.tolist() == raw["Behavior"].str.strip().tolist()
    assert got.events.initiator_id.tolist() == raw["ID.initiator"].tolist()      # never corrected
    assert got.events.group.astype(str).tolist() == raw["Cohort"].tolist()       # and not Group, which is 1 throughout
    assert (got.events.end_s == got.events.start_s + got.events.duration_sec + 1).all()
    assert (got.events["note"] == "NA").sum() == (raw["Notes_AT"] == "NA").sum()  # a note NA is a note


def test_each_odd_cell_is_put_down_once_with_its_own_value(workbook):
    got, book = m.read_workbook(workbook), openpyxl.load_workbook(workbook)
    q = got.quarantine
    assert list(q) == ["sheet", "row", "column", "cell", "value", "reason", "action", "kind"] and set(q.kind) <= set(m.KINDS)
    for r in q[q.column != ""].itertuples():
        assert m.show_cell(book[r.sheet][r.cell].value) == r.value and book[r.sheet][r.cell].row == r.row
    assert not q.duplicated(["sheet", "row", "column", "reason"]).any()
    text_dates = sum(isinstance(c.value, str) for c in book[BOUTS]["C"][1:])
    assert ((q.sheet == BOUTS) & (q.column == "Date") & (q.kind == "repaired")).sum() == text_dates > 0
    blanks = sum(c.value != c.value.strip() for c in book[BOUTS]["L"][1:])
    assert ((q.sheet == BOUTS) & (q.column == "Pen.location") & (q.reason == "blanks around the text")).sum() == blanks > 0
    assert q.kind.map(m.KINDS.index).is_monotonic_increasing  # what needs a person comes first


def unaccounted(path, got) -> list[tuple]:
    "Cells that an event does not hold exactly as they stand, and that the quarantine does not name."
    book, rules, missed, seen = openpyxl.load_workbook(path, data_only=True), m.read_rules(), [], 0
    named = set(zip(got.quarantine.sheet, got.quarantine.row, got.quarantine.column, strict=True))
    letters = {c: i for i, cell in enumerate(book[BOUTS][1]) for c in vars(rules.columns) if cell.value == getattr(rules.columns, c)}
    for name, table in ((BOUTS, got.events), (NEGATIVES, got.hard_negatives), (NIGHT, got.nighttime)):
        rows = {r: [c.value for c in row] for r, row in enumerate(book[name].iter_rows(), 1)}
        for e in table.itertuples():
            r = e.event_idx + (1 if name == NIGHT else 2)
            for c, i in letters.items():
                cell, seen = rows[r][i], seen + 1
                exact = {"date": lambda v, e=e: isinstance(v, dt.datetime) and m.format_date(v.date()) == e.date, "start_time": lambda v, e=e: isinstance(v, dt.time) and m.parse_time(v) == e.start_s,
                         "end_time": lambda v, e=e: isinstance(v, dt.time) and m.parse_time(v) == (e.end_s - 1) % 86400,
                         "behavior": lambda v, e=e, name=name: v == (e.behavior_raw if name == NEGATIVES else e.behavior), "ended_by": lambda v, e=e: v == e.ended_by_raw != "",
                         "pen_location": lambda v, e=e: v == e.pen_location_raw != ""}.get(c, lambda v, e=e, c=c: type(v) in (int, str) and str(v) == str(getattr(e, c)) != "" and (c[-2:] == "id" or type(v) is int))
                if not exact(cell) and (name, r, getattr(rules.columns, c)) not in named:
                    missed.append((name, r, c))
    assert seen == 11 * (len(got.events) + len(got.hard_negatives) + len(got.nighttime))
    return missed


def test_every_cell_is_held_as_it_stands_or_put_down(workbook, edit):
    assert unaccounted(workbook, m.read_workbook(workbook)) == []

    def change(book):  # what no rule can repair is still put down
        for k, (title, value) in enumerate((("Behavior", "EAR"), ("Duration", "7"), ("ID.receiver", " 3110"), ("ID.initiator", None), ("End.time", 0.25), ("Pen.location", "attic"), ("Cohort", "1"))):
            put(title, 2 + k, value)(book)
    path = edit(change)
    assert unaccounted(path, m.read_workbook(path)) == []


def test_a_sheet_without_header_loses_no_event(workbook):
    got = m.read_workbook(workbook)
    assert len(got.nighttime) == openpyxl.load_workbook(workbook)[NIGHT].max_row == 4
    assert (got.quarantine.reason == "no header").sum() == 1 and (got.nighttime["flags"] == "nighttime").all()


def test_hard_negatives_are_counted_as_other_and_blank_rows_as_nothing(workbook):
    got = m.read_workbook(workbook)
    assert len(got.hard_negatives) == 9 and got.totals["blank_rows"][NEGATIVES] == 4
    assert (got.hard_negatives.behavior == "other").all() and "tailhead" in set(got.hard_negatives.behavior_raw)
    assert got.hard_negatives.initiator_id.str.fullmatch(r"\d{4}").all()  # IDs were floats and text


def test_the_order_of_columns_does_not_matter(workbook, edit):
    def shuffle(book):
        for name in (BOUTS, NEGATIVES, NIGHT):
            rows = [[(c.value, c.number_format) for c in r] for r in book[name].iter_rows()]
            order = np.random.default_rng(1).permutation(len(rows[0]))
            for r, row in enumerate(rows, 1):
                for c, i in enumerate(order, 1):
                    cell = book[name].cell(r, c)
                    cell.number_format, cell.value = row[i][1], row[i][0]
                    cell.number_format = row[i][1]
    a, b = m.read_workbook(workbook), m.read_workbook(edit(shuffle))
    for part in ("events", "hard_negatives", "nighttime"):
        pd.testing.assert_frame_equal(getattr(a, part), getattr(b, part))
    key = ["sheet", "row", "column", "reason"]
    assert sorted(map(tuple, a.quarantine[key].values)) == sorted(map(tuple, b.quarantine[key].values))


def test_blank_and_rejected_rows_never_shift_a_number(workbook, edit):
    whole = m.read_workbook(workbook).events

    def change(book):
        book[BOUTS].insert_rows(4)
        put("Date", 6, "sometime")(book)
        put("Behavior", 8, "tongue")(book)
        put("Cohort", 9, None)(book)
    got = m.read_workbook(edit(change))
    assert got.events.event_idx.tolist() == [0, 1, 3, 5, *range(8, len(whole) + 1)]
    assert got.totals["rejected_rows"] == 3 and got.totals["blank_rows"][BOUTS] == 1
    rejected = got.quarantine[got.quarantine.kind == "rejected"]
    assert rejected[["row", "column", "value"]].values.tolist() == [[6, "Date", "sometime"], [8, "Behavior", "tongue"], [9, "Cohort", ""]]
    assert "map it under behavior in the rules" in rejected.action.iloc[1]


@pytest.mark.parametrize("title, value, reason, check", [
    ("Duration", None, "no duration can be read", lambda e: e.duration_sec == 2),
    ("Duration", "two", "no duration can be read", lambda e: e.duration_sec == 2),
    ("Duration", -3, "no duration can be read", lambda e: e.duration_sec == 2),
    ("Duration", 9, "end - start is not the duration", lambda e: e.duration_sec == 9 and "time_conflict" in e["flags"] and e.end_s == e.start_s + 10),
    ("End.time", "later", "no end can be read", lambda e: e.end_time == m.format_time(e.start_s + 2)),
    ("ID.receiver", 3110, "initiator and receiver are one", lambda e: "same_calf" in e["flags"] and e.receiver_id == "3110"),
    ("Date", dt.datetime(2024, 7, 8), "another date than the rest of its group and day", lambda e: "date_conflict" in e["flags"] and e.date == "7/8/2024"),
    ("Pen.location", "roof", "no rule fits", lambda e: e.pen_location == ""),
    ("Pen.location", None, "an empty cell", lambda e: e.pen_location == ""),
    ("Ended.by.initiator.or.receiver.", "rain", "no rule fits", lambda e: e.ended_by == "other"),
    ("Ended.by.initiator.or.receiver.", "Initiator pushed by receiver", "two rules fit", lambda e: e.ended_by == "initiator"),
    ("Behavior", " EAR ", "blanks around the text", lambda e: e.behavior == "ear" and e.behavior_raw == "EAR"),
    ("Notes_BD", "the clock of one camera is late", "a note that speaks of: clock", lambda e: "note_clock" in e["flags"] and "clock" in e["note"]),
    ("Day", "1", "text where a number should be", lambda e: e.day == 1),
    ("Behavior", "Ear", "capitals", lambda e: e.behavior == "ear" and e.behavior_raw == "Ear"),
    ("ID.initiator", None, "an empty cell", lambda e: e.initiator_id == "" and "same_calf" not in e["flags"]),
    ("Duration", dt.time(0, 1, 5), "another type where a number should be", lambda e: e.duration_sec == 65),
    ("Pen.location", " back ", "blanks around the text", lambda e: e.pen_location == "back" and e.pen_location_raw == "back"),
    ("Ended.by.initiator.or.receiver.", "reciever-left", "reciever for receiver", lambda e: e.ended_by == "receiver" and e.ended_by_raw == "reciever-left"),
    ("Start.time", 0.25694444444444442, "another type where a time should be", lambda e: e.start_time == "6:10:00"),
])
def test_one_odd_cell_is_kept_flagged_and_put_down(edit, title, value, reason, check):
    def change(book):
        put(title, 2, value)(book)
    got = m.read_workbook(edit(change))
    row = got.quarantine[(got.quarantine.sheet == BOUTS) & (got.quarantine.row == 2) & got.quarantine.column.isin([title, "End.time"])]
    assert reason in row.reason.tolist(), row
    assert check(got.events.iloc[0]), got.events.iloc[0]


def test_what_no_rule_names_is_said(workbook, edit):
    def change(book):
        book[BOUTS].cell(1, 20, "Weather")
        book[BOUTS].cell(2, 20, "rain")
        book.create_sheet("Ideas")
    t = m.read_workbook(edit(change)).totals
    known = m.read_workbook(workbook).totals
    assert t["columns_not_read"][BOUTS] == [*known["columns_not_read"][BOUTS], "Weather"] and "Group" in known["columns_not_read"][BOUTS]
    assert (known["sheets_not_read"], t["sheets_not_read"]) == ([], ["Ideas"])


def test_an_id_that_is_a_fraction_in_excel_is_read_and_put_down():
    sheet = m.Sheet("s", pd.DataFrame({"receiver_id": [3110, 3110.0, "3110", 3110.5]}, dtype=object), {}, {"receiver_id": "F"}, 2, 0)
    q = m.Quarantine()
    assert m.read_column(sheet, "receiver_id", q).tolist() == ["3110", "3110", "3110", "3110.5"]
    assert q.table()[["cell", "value", "action"]].values.tolist() == [["F1", "3110.0", "read as 3110"], ["F3", "3110.5", "read as 3110.5"]]


def test_doubts_of_the_other_sheets_keep_their_flag(edit):
    def change(book):
        book[NIGHT].cell(2, 9, 3000)  # the duration of the second event of the night
        book[NEGATIVES].cell(2, column(book, "Duration", NEGATIVES), 3000)
    got = m.read_workbook(edit(change))
    assert got.nighttime["flags"].tolist()[1] == "nighttime;time_conflict" and got.hard_negatives["flags"].tolist()[0] == "hard_negative;time_conflict"
    assert set(got.nighttime["flags"].drop(1)) == {"nighttime"}


def rules_of(root, **changes):
    import dataclasses
    rules = m.read_rules(root / "configs" / "workbook_lab.yaml")
    columns = {k: changes.pop(k) for k in list(changes) if hasattr(rules.columns, k) and k not in ("behavior", "ended_by", "pen_location")}
    gone = {k: None for k in changes.pop("without", ())}
    return dataclasses.replace(rules, columns=dataclasses.replace(rules.columns, **columns, **gone), **changes)


def test_a_workbook_without_a_column_says_so_in_the_rules_and_raises_no_doubts(workbook, root):
    plain = m.read_workbook(workbook)
    without = ("group", "day", "initiator_id", "receiver_id", "ended_by", "pen_location", "end_time")
    got = m.read_workbook(workbook, rules_of(root, without=without))
    assert (got.events.group == 1).all() and (got.events[["initiator_id", "receiver_id", "ended_by", "pen_location"]] == "").all(axis=None)
    dates = sorted({m.parse_date(d) for d in got.events.date})
    assert got.events.day.tolist() == [dates.index(m.parse_date(d)) + 1 for d in got.events.date] and len(dates) > 1
    assert got.events.duration_sec.tolist() == plain.events.duration_sec.tolist() and not got.quarantine.reason.isin(["an empty cell", "no end can be read"]).any()
    assert set(without) & set(m.read_workbook(workbook).quarantine.column) == set() and "Cohort" in got.totals["columns_not_read"][BOUTS]
    ends = m.read_workbook(workbook, rules_of(root, without=("duration_sec",)))
    assert not (ends.quarantine.column == "Duration").any() and not ends.events["flags"].str.contains("time_conflict").any()
    clean = ~plain.events["flags"].str.contains("time_conflict")
    assert ends.events.duration_sec[clean].tolist() == plain.events.duration_sec[clean].tolist()


def test_words_stand_for_groups_and_days_where_the_rules_say_so(workbook, edit, root):
    def change(book):
        for row in range(2, book[BOUTS].max_row + 1):
            cell = book[BOUTS].cell(row, column(book, "Cohort"))
            cell.value = f"Pen {'ABCDEF'[int(cell.value) - 1]}"
    path, plain = edit(change), m.read_workbook(workbook).events
    got = m.read_workbook(path, rules_of(root, numbers=m.Numbers(group={f"pen {x}": k for k, x in enumerate("abcdef", 1)})))
    assert got.events.group.tolist() == plain.group.tolist()
    with pytest.raises(UserError, match=r"no row can be read: Cohort is 'Pen A' \(in 32 of 32 rows: cannot be read\); map it under numbers.group in the rules"):
        m.read_workbook(path)


def test_titles_below_a_heading_are_named_and_found(workbook, edit, root):
    def change(book):
        for name in (BOUTS, NEGATIVES):
            book[name].insert_rows(1, 2)
            book[name].cell(1, 1, "The study of 2024")
    path = edit(change)
    with pytest.raises(UserError, match="row 3 looks like the titles: write header_row: 3"):
        m.read_workbook(path)
    got = m.read_workbook(path, rules_of(root, header_row=3))
    pd.testing.assert_frame_equal(got.events, m.read_workbook(workbook).events)
    assert len(got.nighttime) == 4 and got.quarantine[got.quarantine.sheet == BOUTS].row.min() >= 4


def test_a_date_with_the_day_first(workbook, edit, root):
    def change(book):
        for row in range(2, book[BOUTS].max_row + 1):
            cell = book[BOUTS].cell(row, column(book, "Date"))
            day = m.parse_date(cell.value)
            cell.number_format, cell.value = "@", f"{day.day}.{day.month}.{day.year}"
    path = edit(change)
    assert m.read_workbook(path, rules_of(root, day_first=True)).events.date.tolist() == m.read_workbook(workbook).events.date.tolist()
    with pytest.raises(UserError, match=r"Date is '6.7.2024' \(in 32 of 32 rows: cannot be read\); .*set day_first in the rules"):
        m.read_workbook(path)


def test_an_event_over_midnight_is_no_conflict():
    sheet = m.Sheet("s", pd.DataFrame({"end_time": [""]}), {}, {"end_time": "A"}, 2, 0)
    q = m.Quarantine()
    span = m.read_span(sheet, pd.DataFrame({"start_time": [86398.0], "end_time": [3.0], "duration_sec": [5]}), q)
    assert not span.conflict.any() and not q.rows


def test_suspects_are_those_seen_once_in_their_group():
    rng = np.random.default_rng(3)
    for _ in range(20):
        t = pd.DataFrame({"group": rng.integers(1, 3, 12), "initiator_id": rng.integers(10, 20, 12).astype(str), "receiver_id": rng.integers(10, 20, 12).astype(str)})
        seen = pd.concat([t[["group", r]].set_axis(["group", "id"], axis=1) for r in m.ROLES])
        once = seen[~seen.duplicated(keep=False)]
        got = m.suspect_ids(t)
        assert sorted(zip(t.group[got.row], got.id, strict=True)) == sorted(map(tuple, once.values))
        for _, _, calf, near in got.itertuples(index=False):
            for other in filter(None, near.split(" or ")):
                assert sum(a != b for a, b in zip(calf, other, strict=True)) == 1


def test_the_later_of_two_equal_rows_names_the_first(edit):
    def change(book):
        for row in (20, 21):
            for col in range(1, 16):
                old, new = book[BOUTS].cell(2, col), book[BOUTS].cell(row, col)
                new.number_format, new.value = old.number_format, old.value
    got = m.read_workbook(edit(change)).events.set_index("event_idx")
    assert got.duplicate_of[[0, 18, 19]].tolist() == ["", "0", "0"] and got["flags"][[18, 19]].str.contains("duplicate").all() and got["flags"][0] == ""


def test_overlap_agrees_with_counting_every_second():
    rng = np.random.default_rng(5)
    for _ in range(20):
        t = pd.DataFrame({"group": rng.integers(1, 3, 30), "day": 1, "behavior": rng.choice(["ear", "tail", "teat"], 30), "start_s": rng.integers(0, 120, 30).astype(float)})
        t["end_s"] = t.start_s + rng.integers(1, 9, 30)
        pad = int(rng.integers(0, 4))
        want = []
        for e in t.itertuples():
            other = {"ear": "tail", "tail": "ear"}.get(e.behavior)
            mine = t[(t.group == e.group) & (t.behavior == other)]
            seconds = {s for a, b in zip(mine.start_s, mine.end_s, strict=True) for s in range(int(a), int(b))}
            want.append(len(seconds & set(range(int(e.start_s) - pad, int(e.end_s) + pad))))
        assert m.other_class_overlap(t, pad).tolist() == want


def test_overlapping_pairs_agree_with_comparing_all():
    rng = np.random.default_rng(6)
    t = pd.DataFrame({"group": rng.integers(1, 3, 80), "day": 1, "behavior": rng.choice(["ear", "tail"], 80), "start_s": rng.integers(0, 300, 80).astype(float)})
    t["end_s"] = t.start_s + rng.integers(1, 9, 80)
    both = t.merge(t, on=["group", "day"])
    want = ((both.behavior_x == "ear") & (both.behavior_y == "tail") & (both.start_s_x < both.end_s_y) & (both.start_s_y < both.end_s_x)).sum()
    assert m.count_overlaps(t) == want > 0


# --- faults of the workbook -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, words", [
    (lambda b: setattr(b[BOUTS], "title", "Bouts"), [f"no sheet '{BOUTS}'", "rename it", "under sheets in the rules", "--rules", "'Bouts'"]),
    (lambda b: b.remove(b[NIGHT]), [f"no sheet '{NIGHT}'"]),
    (lambda b: b[BOUTS].cell(1, column(b, "Behavior"), "Behaviour"), ["no column 'Behavior' (columns.behavior)", f"sheet '{BOUTS}'", "'Behaviour'", "--rules"]),
    (lambda b: b[BOUTS].cell(1, column(b, "Notes_BD"), "notes"), ["no column 'Notes_BD' (notes)"]),
    (lambda b: b[BOUTS].cell(1, column(b, "Group"), " day "), ["column 'Day' stands there twice"]),
    (lambda b: setattr(b[NEGATIVES].cell(1, column(b, "Day")), "value", None), ["no column 'Day'", NEGATIVES]),
    (lambda b: b[BOUTS].delete_rows(1, 100), ["the sheet is empty", BOUTS]),
    (lambda b: b[BOUTS].delete_rows(2, 100), ["no row can be read", BOUTS]),
])
def test_a_broken_workbook_is_refused_in_one_line(edit, change, words):
    path = edit(change)
    with pytest.raises(UserError) as e:
        m.read_workbook(path)
    assert "\n" not in str(e.value) and str(path) in str(e.value)
    for w in words:
        assert w in str(e.value)


def test_titles_may_have_blanks_and_other_capitals(workbook, edit):
    def change(book):
        book[BOUTS].cell(1, column(book, "Behavior"), " behavior ")
        book[NIGHT].title = "nighttime "
    assert len(m.read_workbook(edit(change)).events) == len(m.read_workbook(workbook).events)


def test_what_is_no_workbook_is_said(tmp_path, workbook):
    for name, make, words in [("gone.xlsx", None, "no such file"), ("text.xlsx", lambda p: p.write_text("a,b"), "not an Excel workbook"),
                              ("cut.xlsx", lambda p: p.write_bytes(workbook.read_bytes()[:3000]), "not an Excel workbook"), ("folder.xlsx", lambda p: p.mkdir(), "cannot be opened")]:
        if make:
            make(tmp_path / name)
        with pytest.raises(UserError, match=words) as e:
            m.read_workbook(tmp_path / name)
        assert name in str(e.value)


def test_a_zip_that_is_no_workbook(tmp_path):
    import zipfile
    with zipfile.ZipFile(tmp_path / "z.xlsx", "w") as z:
        z.writestr("a.txt", "b")
    with pytest.raises(UserError, match="not an Excel workbook"):
        m.read_workbook(tmp_path / "z.xlsx")


def test_rules_may_leave_sheets_out_and_map_another_layout(workbook, edit, root, tmp_path):
    text = (root / "configs" / "workbook_lab.yaml").read_text()
    text = re.sub(r"nighttime: Nighttime", "nighttime: null", text)
    text = re.sub(r"hard_negatives: Similar movements not counted", "hard_negatives: null", text).replace("behavior: Behavior", "behavior: What")
    rules = write_text(tmp_path / "rules.yaml", text)
    got = m.read_workbook(edit(lambda b: b[BOUTS].cell(1, column(b, "Behavior"), "What")), rules)
    assert len(got.hard_negatives) == len(got.nighttime) == 0
    pd.testing.assert_series_equal(got.events.behavior, m.read_workbook(workbook).events.behavior)
    assert list(got.nighttime) == list(m.EVENT_COLUMNS)


@pytest.mark.parametrize("old, new, words", [
    ("columns:", "colums:", "unknown key 'colums'"), ("mouth: other", "mouth: nose", "'mouth' counts as 'nose'"), ("clock: ", "clock: (", "no pattern"),
    ("  date: Date", "", "no value for 'columns.date'"), ("header_row: 1", "header_row: 0", "header_row is 0"), ("  day: {}", "  week: {}", "unknown key 'numbers.week'"),
    ("  day: Day", "  # ", "no value for 'columns.day'"), ("  receiver_id: Modifier 1", "  reciever_id: x", "unknown key 'boris.reciever_id'"), ("sheets:", "sheets: [", "not valid YAML")])
def test_broken_rules_are_named(root, tmp_path, old, new, words):
    text = (root / "configs" / "workbook_lab.yaml").read_text()
    assert old in text
    with pytest.raises(UserError, match=re.escape(words)) as e:
        m.read_rules(write_text(tmp_path / "rules.yaml", text.replace(old, new, 1)))
    assert "rules.yaml" in str(e.value) and "\n" not in str(e.value)


# --- files ------------------------------------------------------------------------------------------------------------

def test_written_files_are_read_back_as_they_were(workbook, tmp_path):
    got = m.read_workbook(workbook)
    out = m.write_manifest(got, tmp_path / "new" / "folder")
    assert sorted(os.listdir(out)) == ["events.csv", "hard_negatives.csv", "manifest.json", "nighttime.csv", "quarantine.csv"]
    for part in ("events", "hard_negatives", "nighttime"):
        pd.testing.assert_frame_equal(m.read_events(out / f"{part}.csv"), getattr(got, part))
    assert json.loads((out / "manifest.json").read_text()) == json.loads(json.dumps(got.totals))
    back = pd.read_csv(out / "quarantine.csv", dtype=str, keep_default_na=False)
    assert back.value.tolist() == got.quarantine.value.tolist()  # blanks around a text survive
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    m.write_manifest(m.read_workbook(workbook), out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before  # the same workbook gives the same files


TABLE = """event_idx,group,day,date,start_time,end_time,duration_sec,behavior,initiator_id,camera_id,event_offset_sec,linked
0,1,1,7/6/2024,6:00:25,6:00:27,2,ear,007,8,23.0,True
1,1,1,7/6/2024,6:00:33,6:00:33,0,tail,NA,8,31.0,False
"""


def test_read_events_types(tmp_path):
    t = m.read_events(write_text(tmp_path / "t.csv", TABLE))
    assert t.start_s.tolist() == [21625, 21633] and t.end_s.tolist() == [21628, 21634] and t.initiator_id.tolist() == ["007", "NA"]
    assert t.linked.tolist() == [True, False] and str(t.camera_id.dtype) == "int64" and str(t.event_offset_sec.dtype) == "float64" and str(t.duration_sec.dtype) == "int64"


@pytest.mark.parametrize("old, new, words", [
    (",ear,", ",Ear,", "line 2: behavior is 'Ear'; use one of ear, tail, teat, other"), ("\n1,", "\n0,", "line 3: event_idx is '0'"), ("\n1,", "\none,", "line 3: event_idx is 'one'"),
    ("6:00:33,6", "6h33,6", "line 3: start_time is '6h33'"), ("7/6/2024,6:00:33", "13/6/2024,6:00:33", "line 3: date is '13/6/2024'"), (",2,ear", ",-2,ear", "line 2: duration_sec is '-2'"),
    (",2,ear", ",,ear", "line 2: duration_sec is 'nan'"), (",2,ear", ",two,ear", "line 2: duration_sec is 'two'"), ("duration_sec", "seconds", "no column 'duration_sec'"),
    (",31.0", ",inf", "line 3: event_offset_sec is 'inf'"), ("\n1,1,", "\n1,-1,", "line 3: group is '-1'"), (",2,ear", ",99999,ear", "line 2: duration_sec is '99999'")])
def test_read_events_names_line_and_column(tmp_path, old, new, words):
    path = write_text(tmp_path / "t.csv", TABLE.replace(old, new, 1))
    with pytest.raises(UserError) as e:
        m.read_events(path)
    assert words in str(e.value) and "t.csv" in str(e.value) and "\n" not in str(e.value)


def test_read_events_refuses_repeats_unless_asked_and_a_contradiction(tmp_path):
    twice = TABLE + TABLE.splitlines()[1] + "\n"
    with pytest.raises(UserError, match="stands there twice"):
        m.read_events(write_text(tmp_path / "t.csv", twice))
    assert len(m.read_events(tmp_path / "t.csv", repeats=True)) == 3
    lines = TABLE.splitlines()
    wrong = "\n".join([lines[0] + ",start_s", lines[1] + ",21625", lines[2] + ",5"])
    with pytest.raises(UserError, match="line 3: start_s is '5.0'"):
        m.read_events(write_text(tmp_path / "t.csv", wrong))


def test_an_empty_table_keeps_its_types(tmp_path):
    t = m.read_events(write_text(tmp_path / "t.csv", TABLE.splitlines()[0] + "\n"))
    assert len(t) == 0 and str(t.start_s.dtype) == "float64" and str(t.event_idx.dtype) == "int64"


def test_a_duration_plot_holds_every_ear_and_tail_event(workbook):
    e = m.read_workbook(workbook).events
    drawn = sum(int(p.get_height()) for p in m.plot_durations(e).axes[0].patches)
    assert drawn == e.behavior.isin(["ear", "tail"]).sum()


# --- the lab's own workbook: totals only ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def real(lab):
    return m.read_workbook(lab / "final_manifest.xlsx")


@pytest.mark.lab
def test_lab_counts(real):
    t = real.totals
    assert (t["events"], t["hard_negatives"], t["nighttime"], t["rejected_rows"]) == (1897, 9, 48, 0)
    assert t["behavior_raw"] == {"ear": 1651, "tail": 219, "teat": 12, "mouth": 9, "tail/teat": 6}
    assert t["behavior"] == {"ear": 1651, "tail": 225, "teat": 12, "other": 9}
    assert t["ended_by"] == {"initiator": 1082, "receiver": 787, "interrupted": 27, "other": 1}
    assert t["pen_location"] == {"middle": 1019, "front": 591, "back": 287}
    assert t["blank_rows"] == {BOUTS: 0, NEGATIVES: 4, NIGHT: 0}
    tail = real.events[real.events.behavior == "tail"].groupby("group").size()
    assert tail.to_dict() == {1: 104, 2: 13, 3: 41, 4: 6, 5: 6, 6: 55}


@pytest.mark.lab
def test_lab_group_days(real):
    days = [(d["group"], d["day"], d["date"], d["events"]) for d in real.totals["group_days"]]
    assert days == [(1, 1, "7/6/2024", 316), (1, 4, "7/9/2024", 355), (2, 1, "7/14/2024", 171), (2, 4, "7/17/2024", 65), (3, 1, "8/2/2024", 157), (3, 4, "8/5/2024", 174),
                    (4, 1, "9/13/2024", 68), (5, 1, "10/16/2024", 68), (5, 4, "10/19/2024", 5), (6, 1, "11/7/2024", 243), (6, 4, "11/10/2024", 275)]


@pytest.mark.lab
def test_lab_durations(real):
    d = real.totals["duration_s"]
    assert round(d["mean"], 2) == 6.87 and (d["q25"], d["q50"], d["q75"], d["max"], d["zeros"]) == (1, 4, 8, 272, 196)


@pytest.mark.lab
def test_lab_doubts(real):
    t, q = real.totals, real.quarantine
    assert t["flags"]["time_conflict"] == 5 and t["suspect_ids"] == 5 and t["duplicate_pairs"] == 8
    assert t["overlapping_pairs"] == 10 and t["events_with_other_class_in_padding"] == 29
    conflicts = real.events[real.events["flags"].str.contains("time_conflict")]
    assert (conflicts.end_s == conflicts.start_s + conflicts.duration_sec + 1).all() and "0:00:00" in set(conflicts.end_time)
    twice = real.events[real.events.duplicate_of != ""]
    assert set(twice.group) == {1} and set(twice.day) == {4} and twice.start_time.between("12:02:00", "12:27:59").all()
    note = real.events[real.events["flags"].str.contains("note_clock")]
    assert note.event_idx.tolist() == [913]
    trimmed = q[(q.sheet == BOUTS) & (q.column == "Pen.location") & (q.reason == "blanks around the text")]
    assert trimmed.value.value_counts().to_dict() == {"middle ": 34, " back": 1}
    assert ((q.sheet == BOUTS) & (q.reason == "reciever for receiver")).sum() == 2
    assert ((q.sheet == BOUTS) & (q.reason == "another word for a behaviour")).sum() == 15
    assert (q.reason == "no header").sum() == 1


@pytest.mark.lab
def test_lab_suspects_are_the_five_of_the_rule_and_nothing_is_corrected(real, lab):
    q = real.quarantine[real.quarantine.reason == "occurs only once in its group"]
    readme = (lab / "README.md").read_text()
    named = re.search(r"that rule finds five \(([^)]*)\)", readme)[1]
    assert sorted(q.value) == sorted(re.findall(r"\b\d{4}\b", named)) and len(q) == 5
    assert sorted(q.row) == sorted(q.row.tolist()) and (q.row == 912 + 2).sum() == 2
    for r in q.itertuples():
        near = re.search(r"perhaps (\S+);", r.action)
        if near:
            assert sum(a != b for a, b in zip(near[1], r.value, strict=True)) == 1
        role = {"ID.initiator": "initiator_id", "ID.receiver": "receiver_id"}[r.column]
        assert real.events.loc[real.events.event_idx == r.row - 2, role].item() == r.value


@pytest.mark.lab
def test_lab_every_text_cell_is_accounted_for(real, lab):
    book = openpyxl.load_workbook(lab / "final_manifest.xlsx")
    q = real.quarantine[real.quarantine.sheet == BOUTS]
    for letter, title in (("C", "Date"), ("G", "Start.time"), ("H", "End.time")):
        text = sum(isinstance(c.value, str) for c in book[BOUTS][letter][1:])
        assert ((q.column == title) & (q.kind == "repaired")).sum() == text > 800


@pytest.mark.lab
def test_lab_every_cell_is_held_as_it_stands_or_put_down(real, lab):
    assert unaccounted(lab / "final_manifest.xlsx", real) == []
    book, q = openpyxl.load_workbook(lab / "final_manifest.xlsx", data_only=True), real.quarantine
    for r in q[q.column != ""].itertuples():
        assert m.show_cell(book[r.sheet][r.cell].value) == r.value and book[r.sheet][r.cell].row == r.row and r.reason and r.action
    assert q.kind.value_counts().to_dict() == {"repaired": 2842, "doubted": 23}


@pytest.mark.lab
def test_lab_columns_that_are_not_read_are_named(real):
    assert set(real.totals["columns_not_read"]) == {BOUTS, NEGATIVES, NIGHT} and real.totals["sheets_not_read"] == []
    assert [len(c) for c in real.totals["columns_not_read"].values()] == [2, 2, 2] and real.totals["columns_not_read"][BOUTS][0] == "Group"


@pytest.mark.lab
def test_lab_time_conflicts_are_those_of_the_readme(real):
    e = real.events[real.events["flags"].str.contains("time_conflict")]
    off = (e.end_time.map(m.parse_time) - e.start_s - e.duration_sec).round().astype(int)
    assert len(e) == 5 and (e.end_time == "0:00:00").sum() == 1 and (off == -3600).sum() == 1 and (off == 600).sum() == 1, off.tolist()


@pytest.mark.lab
def test_lab_duplicates_agree_as_counted_and_two_of_them_to_the_letter(real):
    e = real.events.set_index("event_idx")
    pairs = [(int(first), i) for i, first in e.duplicate_of.items() if first]
    assert len(pairs) == 8
    alike = [(e.loc[a, ["ended_by_raw", "pen_location_raw"]] == e.loc[b, ["ended_by_raw", "pen_location_raw"]]).all() for a, b in pairs]
    assert sum(alike) == 2


@pytest.mark.lab
def test_lab_suggests_a_neighbour_one_digit_away(real):
    q = real.quarantine[real.quarantine.reason == "occurs only once in its group"]
    assert sum("perhaps" in a for a in q.action) >= 3 and (q.action.str.startswith("kept as written")).all() and (q.kind == "doubted").all()


@pytest.mark.lab
def test_lab_class_ratio_and_weights(real, lab):
    n = real.totals["behavior"]
    train = m.read_events(lab / "train_v4.csv").behavior.value_counts()
    assert n["ear"] + n["tail"] == 1876 and round(n["ear"] / n["tail"], 1) == 7.3
    assert round((n["ear"] / n["tail"]) ** .5, 2) == 2.71 and round((train["ear"] / train["tail"]) ** .5, 2) == 2.62


@pytest.mark.lab
def test_lab_events_equal_the_master_table_in_every_shared_column(real, lab):
    master = m.read_events(lab / "MASTER_LINKED_v4.csv")
    for c in (*m.LAB_COLUMNS, "start_s", "end_s"):
        assert (real.events[c].to_numpy() == master[c].to_numpy()).all(), c   # no difference is left to explain


@pytest.mark.lab
def test_lab_tables_are_read(lab):
    for name, n, tail in (("train_v4", 1374, 175), ("val_v4", 361, 38), ("test_ood_v4", 141, 12)):
        t = m.read_events(lab / f"{name}.csv")
        assert len(t) == n and (t.behavior == "tail").sum() == tail and t.linked.all()


def test_group_days_are_counted_and_a_document_that_counts_otherwise_is_named():
    days = [{"group": g, "day": d, "date": "2024-07-06", "events": 5} for g in range(1, 7) for d in (1, 4) if (g, d) != (4, 4)]
    said = ("Contradiction: February report, sections 2.1, 3.3 and 10, states 12 folders, one a group and day; "
            "the data give 11 group-days.")
    assert m.group_day_words({"events": 1897, "group_days": days}) == ["11 group-days (a group on one day).", said]
    assert m.group_day_words({"events": 55, "group_days": days}) == ["11 group-days (a group on one day)."]
    assert m.group_day_words({"events": 5, "group_days": days[:1]}) == ["1 group-day (a group on one day)."]


@pytest.mark.lab
def test_the_labs_workbook_holds_11_group_days(lab):
    words = m.group_day_words(m.read_workbook(lab / "final_manifest.xlsx").totals)
    assert words[0].startswith("11 group-days") and "states 12 folders" in words[1]
