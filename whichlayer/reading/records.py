"""Tables whose rows are records with names: JSON Lines, JSON arrays, Parquet."""

import contextlib
import json
import math
import re

from whichlayer.common import cli
from whichlayer.reading import unpack

# what stands in front of an object in an array
SEPARATOR = re.compile(r"\s*(,?)\s*")
# what is said of wrong JSON
HOW = "write one on each line, as pandas does with to_json(…, orient='records', lines=True)"
NO_OBJECT = f"is not a JSON object with a text in each column; {HOW}"
HALF = "half of a surrogate pair (such as \\ud83d), which is no character"
BINARY = "holds bytes that are no text; leave the column out, or save it as text, such as base64"
# characters that are read at once, and of the largest object in an array
CHUNK = 1 << 20
LARGEST = 1 << 26
# different keys: as many as nobody wants as columns
MOST_KEYS = 10_000
# rows of Parquet that are in memory together
BATCH = 4096


def without_repeats(pairs):
    """The dictionary of an object's (key, value) pairs; a key that is there twice is a Problem."""
    item = dict(pairs)
    if len(item) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = max(keys, key=keys.count)
        remedy = "rename or leave out one of the two"
        raise cli.Problem(f"has the key {cli.quote(twice)} twice; {remedy}")
    return item


def whole_number(text):
    """The number that JSON writes so; the text itself where Python does not read so many digits."""
    try:
        return int(text)
    except ValueError:
        return text


def decimal_number(text):
    """The number that JSON writes so; the text itself where a float would be infinite, or 0 though
    it is not.
    """
    value = float(text)
    digits = re.split("[eE]", text)[0]
    is_lost = math.isinf(value) or (value == 0 and digits.strip("-0."))
    return text if is_lost else value


# NaN is how some write null; infinity is none, and stays what is written
DECODER = json.JSONDecoder(
    object_pairs_hook=without_repeats,
    parse_int=whole_number,
    parse_float=decimal_number,
    parse_constant=lambda name: None if name == "NaN" else name,
)


def as_text(value):
    """A value as the text of a cell: empty for null and not-a-number, JSON for what is nested."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=as_text)
    if not isinstance(value, bytes):
        # a date, for example
        return str(value)
    text = value.decode("utf-8", "surrogateescape")
    if unpack.fault(text):
        raise cli.Problem(BINARY)
    return text


# --- JSON -----------------------------------------------------------------------------------------


def is_json(first, name):
    """True for JSON. first: the beginning of the text; name: of the file, in small letters."""
    begins = first.lstrip()
    named = re.search(r"\.(json|jsonl|ndjson)(\.(gz|bz2|xz))?$", name)
    # what is wrong with an object is named with its row when that is read
    return bool(named or re.match(r"\[\s*\{|\{\s*[\"}]", begins))


def decoded(text):
    """What a JSON text says, or None."""
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def json_keys(path):
    """The keys of all objects of a file, in the order in which they appear."""
    keys = {}
    number = 0
    try:
        with unpack.open_text(path) as text:
            for item in objects(text.lines):
                if not item.keys() <= keys.keys():
                    keys.update(dict.fromkeys(item))
                if len(keys) > MOST_KEYS:
                    raise cli.Problem(f"makes it more than {MOST_KEYS:,} keys; {HOW}")
                number += 1
    except unpack.FAULTS as error:
        raise unpack.problem(path, f"row {number + 1}", error) from None
    if not keys:
        raise cli.Problem(f"{path}: holds no JSON objects; {HOW}")
    return list(keys)


def json_cells(path, keys, columns):
    """Yield the cells of each object, in the order of the keys; a missing key is an empty cell.

    What is no text becomes its JSON text, but lists and objects in `columns` are refused.
    """
    with unpack.open_text(path) as text:
        for item in objects(text.lines):
            if any(isinstance(item.get(key), dict | list) for key in columns):
                raise cli.Problem(NO_OBJECT)
            yield [as_text(item.get(key)) for key in keys]


def array_of(path):
    """The key of the array of records in a file that holds one object and nothing else, or None."""
    # what else is wrong with the file has been found
    with contextlib.suppress(*unpack.FAULTS), unpack.open_text(path) as text:
        item = decoded(text.lines.read(LARGEST).strip("\ufeff \t\r\n"))
        for key, value in item.items() if isinstance(item, dict) else ():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                return key
    return None


def refuse_array(path):
    """Refuse a file that holds one object with an array of records in it, and say how to make JSON
    Lines of that.
    """
    key = array_of(path)
    if key is None:
        return
    # strings of JSON are Python's, too, and have no single quotes around them
    file = json.dumps(str(path), ensure_ascii=False)
    name = json.dumps(key, ensure_ascii=False)
    records = f'json.load(open({file}, encoding="utf-8-sig"))[{name}]'
    code = f"import json; [print(json.dumps(each)) for each in {records}]"
    lines = path.with_name(f"{path.stem}-lines.jsonl")
    wrong = f"this is one JSON object that holds an array of records, {cli.quote(key)}"
    remedy = f"make JSON Lines of it with: {cli.shell('python', '-c', code)} > {cli.shell(lines)}"
    raise cli.Problem(f"{path}: {wrong}; {remedy}")


def objects(lines):
    """Yield the JSON objects of an open text: those of an array, or one on each line."""
    first = ""
    while not first.strip():
        first = lines.readline(CHUNK)
        if not first:
            return
    # two files that were joined have a byte order mark in the middle
    if first.lstrip("\ufeff \t\r\n").startswith("["):
        yield from array_objects(first, lines)
        return
    yield parsed(first + ("" if first.endswith(("\n", "\r")) else lines.readline()))
    for line in lines:
        if not line.isspace():
            yield parsed(line)


def parsed(line):
    """The JSON object on a line."""
    item = decoded(line.strip("\ufeff \t\r\n"))
    check_object(item, line)
    return item


def check_object(item, source):
    """Refuse what is not an object, or not text. source: the JSON text that it was read from."""
    if not isinstance(item, dict):
        raise cli.Problem(NO_OBJECT)
    if not source.isascii() and unpack.SURROGATE.search(source):
        raise cli.Problem("holds bytes that are not UTF-8; save the file in UTF-8")
    # any other surrogate was written as \ud83d, and such halves cannot be written to a file
    if "\\u" in source and unpack.SURROGATE.search(json.dumps(item, ensure_ascii=False)):
        raise cli.Problem(f"holds {HALF}; write the whole pair, or leave it out")


def array_objects(first, text):
    """Yield the objects of a JSON array, of which only a part is in memory.

    first: its beginning; text: the open file with the rest.
    """
    buffer = first
    place = buffer.index("[") + 1
    comma = ""
    while True:
        separator = SEPARATOR.match(buffer, place)
        begins = separator.end()
        if buffer.startswith("]", begins):
            break
        # where nothing stands there, it is still to come
        next_one = buffer[begins : begins + 1]
        if next_one and (separator[1] != comma or next_one == ","):
            raise cli.Problem(f"has no comma, or one too many, in front; {HOW}")
        item, end = decoded_at(buffer, begins)
        if end is None:
            more = text.read(max(CHUNK, len(buffer)))
            if not more or len(buffer) > LARGEST:
                wrong = "is larger than 64 MB" if more else "is not whole"
                raise cli.Problem(f"{wrong}, or it is not JSON; {HOW}")
            buffer = buffer[place:] + more
            place = 0
            continue
        check_object(item, buffer[begins:end])
        yield item
        place = end
        comma = ","
    if (buffer[begins + 1 :] + text.read(CHUNK)).strip():
        raise cli.Problem(f"comes after the end of the JSON list; {HOW}")


def decoded_at(buffer, place):
    """(value, its end) of the JSON text that begins there, or (None, None) where more is needed."""
    try:
        return DECODER.raw_decode(buffer, place)
    except ValueError:
        return None, None
    except RecursionError:
        raise cli.Problem(NO_OBJECT) from None


# --- Parquet --------------------------------------------------------------------------------------


def parquet_parts(path):
    """The Parquet files that a path stands for: itself, or those in a folder; else none."""
    if path.is_dir():
        # a Macintosh adds hidden ones
        return sorted(part for part in path.glob("[!.]*.parquet") if part.is_file())
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        return [path] if file.read(4) == b"PAR1" else []


def parquet_names(parts):
    """The names of the columns, the same in all parts."""
    names = None
    for part in parts:
        with opened(part) as file:
            own = file.schema_arrow.names
        if names is None:
            names = own
        if len(set(own)) != len(own):
            raise cli.Problem(f"{part}: two of its columns have one name; rename one")
        if sorted(own) != sorted(names):
            other = "its columns are not those of"
            raise cli.Problem(f"{part}: {other} {parts[0].name}; move it out of the folder")
    return names


def opened(part):
    """The pyarrow.parquet.ParquetFile of a file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        needed = "pyarrow is needed for Parquet, and not installed"
        remedy = "`pip install pyarrow`, or save the table as CSV"
        raise cli.Problem(f"{part}: {needed}; {remedy}") from None
    try:
        return pyarrow.parquet.ParquetFile(part)
    except (pyarrow.ArrowException, OSError) as error:
        raise damaged(part, error) from None


def damaged(part, error):
    """The Problem that a Parquet file cannot be read."""
    why = cli.one_line(error)[:200]
    return cli.Problem(f"{part}: damaged ({why}); copy or save the file again")


def parquet_cells(parts, names, columns):
    """Yield the cells of each row, in the order of the names; lists in `columns` are refused."""
    wanted = [names.index(column) for column in columns]
    for part in parts:
        with opened(part) as file:
            for batch in batches(part, file, names):
                values = [objects_of(part, name, batch.column(name)) for name in names]
                for row in zip(*values, strict=True):
                    if any(isinstance(row[number], dict | list) for number in wanted):
                        raise cli.Problem("holds a list, not a text; name a column of texts")
                    yield list(map(cell, names, row))


def objects_of(part, name, column):
    """The values of a column of a batch as Python's objects; as texts, where Python has none, such
    as dates beyond the year 9999. Those that are no texts either are a Problem.
    """
    try:
        return column.to_pylist()
    except (OverflowError, ValueError):  # nor does it know each time zone
        numbers = range(len(column))
    try:
        return [object_of(column.slice(number, 1)) for number in numbers]
    except (OverflowError, ValueError, NotImplementedError) as error:
        wrong = f"column {cli.quote(name)} cannot be read ({cli.one_line(error)[:160]})"
        remedy = "leave the column out, or save it as text"
        raise cli.Problem(f"{part}: {wrong}; {remedy}") from None


def object_of(value):
    """The same of one value, in an array of its own."""
    try:
        return value.to_pylist()[0]
    except (OverflowError, ValueError):
        return value.cast("string").to_pylist()[0]


def cell(name, value):
    """A value of Parquet as text; one that is none is a Problem that names its column."""
    try:
        return as_text(value)
    except cli.Problem as error:
        raise cli.Problem(f"column {cli.quote(name)} {error}") from None


def batches(part, file, names):
    """Yield the record batches of an open Parquet file."""
    from pyarrow import ArrowException

    try:
        yield from file.iter_batches(BATCH, columns=names)
    except (ArrowException, OSError) as error:
        raise damaged(part, error) from None
