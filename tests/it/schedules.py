"""An oracle for fire times: croniter reads the lines, zoneinfo the clocks; only the rule for changed
clocks is ours, written a second time.

    schedules.py < questions      [{line, zone, from, until}], in seconds since 1970
    prints one list of instants for each

A line is fixed where neither its minute nor its hour begins with `*`. In a gap fixed ones fire once,
right after it, others not at all; in a fold fixed ones fire once, at the first, others in real time.
Outside of changed clocks the instants are also compared with those that croniter itself gives.
"""

import datetime
import json
import sys
import zoneinfo

import croniter

UTC = datetime.timezone.utc
MINUTE = datetime.timedelta(minutes=1)


def fields(line):
    expanded = croniter.croniter.expand({"@daily": "0 0 * * *", "@hourly": "0 * * * *"}.get(line, line))[0]
    return [None if field == ["*"] else set(map(int, field)) for field in expanded[:5]]


def matches(line, parsed, civil):
    minute, hour, day, month, weekday = parsed
    if not (minute is None or civil.minute in minute) or not (hour is None or civil.hour in hour):
        return False
    if not (month is None or civil.month in month):
        return False
    by_day = day is None or civil.day in day
    by_weekday = weekday is None or (civil.isoweekday() % 7) in {w % 7 for w in weekday}
    words = line.split()
    # Both restricted: either one does.
    if len(words) == 5 and day is not None and weekday is not None:
        return by_day or by_weekday
    return by_day and by_weekday


def answer(line, zone, begin, until):
    clock = zoneinfo.ZoneInfo(zone)
    parsed = fields(line)
    words = {"@daily": "0 0 * * *", "@hourly": "0 * * * *"}.get(line, line).split()
    fixed = not words[0].startswith("*") and not words[1].startswith("*")
    found = set()
    # A civil minute more on each side, so that gaps and folds at the edges are whole.
    instant = datetime.datetime.fromtimestamp(begin - 86400, UTC).replace(second=0)
    end = datetime.datetime.fromtimestamp(until + 86400, UTC)
    seen = set()
    before = None
    while instant <= end:
        civil = instant.astimezone(clock).replace(tzinfo=None)
        if before is not None and civil - before > MINUTE and fixed:
            # A gap: what it swallowed fires once, right after it.
            inside = before + MINUTE
            while inside < civil:
                if matches(line, parsed, inside):
                    found.add(int(instant.timestamp()))
                inside += MINUTE
        if matches(line, parsed, civil) and not (fixed and civil in seen):
            found.add(int(instant.timestamp()))
        seen.add(civil)
        before = civil
        instant += MINUTE
    return sorted(at for at in found if begin < at <= until)


def plain(line, zone, begin, until):
    """What croniter gives, where no clock changes near the window."""
    clock = zoneinfo.ZoneInfo(zone)
    offsets = {datetime.datetime.fromtimestamp(at, clock).utcoffset() for at in range(begin - 90000, until + 90000, 1800)}
    if len(offsets) > 1 or line.startswith("@"):
        return None
    made = croniter.croniter(line, datetime.datetime.fromtimestamp(begin, clock))
    found = []
    while (at := int(made.get_next(float))) <= until:
        found.append(at)
    return found


def main():
    answers = []
    for question in json.load(sys.stdin):
        line, zone, begin, until = (question[name] for name in ("line", "zone", "from", "until"))
        ours = answer(line, zone, begin, until)
        theirs = plain(line, zone, begin, until)
        if theirs is not None and theirs != ours:
            sys.exit(f"croniter itself differs over {question}: {set(theirs) ^ set(ours)}")
        answers.append(ours)
    json.dump(answers, sys.stdout)


main()
