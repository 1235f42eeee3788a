"""Integrity checks of MindRecord files, made before MindSpore's reader, which would end the process on damaged ones.

Files with a manifest (PATH.json) are compared with its checksums; others, such as the course's, are checked for
consistency of header, index and size.
"""

import functools
import json
import os
import re
import sqlite3
import zlib

from mindfcn.errors import UserError

MAX_HEADER = 1 << 28
CHUNK = 1 << 20
REMEDY = "copy it again, or prepare the records again"
# Fields that the reader relies on: a type, a list of entries of one form, or a mapping with at least these keys.
_PAGE = {"page_id": int, "page_type": str, "page_type_id": int, "page_size": int, "shard_id": int, "start_row_id": int,
         "end_row_id": int, "row_group_ids": [{"id": int, "offset": int}]}
_HEADER = {"header_size": int, "page_size": int, "shard_id": int, "version": str, "shard_addresses": [str],
           "index_fields": [{"index_field": str, "schema_id": int}], "page": [_PAGE],
           "schema": [{"blob_fields": [str], "desc": str, "schema": dict}]}
_MANIFEST = {"count", "labels", "shards", "skipped", "files"}
_OFFSETS = ("PAGE_OFFSET_RAW", "PAGE_OFFSET_RAW_END", "PAGE_OFFSET_BLOB", "PAGE_OFFSET_BLOB_END")
_BAD_ROWS = f"""SELECT COUNT(*) FROM INDEXES WHERE
    NOT ({' AND '.join(f"typeof({name}) = 'integer'" for name in ('ROW_ID', 'PAGE_ID_RAW', 'PAGE_ID_BLOB', *_OFFSETS))}
         AND 0 <= PAGE_OFFSET_RAW AND PAGE_OFFSET_RAW < PAGE_OFFSET_RAW_END AND PAGE_OFFSET_RAW_END <= :size
         AND 0 <= PAGE_OFFSET_BLOB AND PAGE_OFFSET_BLOB < PAGE_OFFSET_BLOB_END AND PAGE_OFFSET_BLOB_END <= :size
         AND PAGE_ID_RAW BETWEEN 0 AND :pages - 1 AND PAGE_ID_BLOB BETWEEN 0 AND :pages - 1
         AND ROW_ID BETWEEN 0 AND :rows - 1)"""


def record_files(path):
    """List the MindRecord files of a data set, in order, after checking them; a manifest is optional.

    With a manifest every byte is read once per process, at the speed of CRC-32.

    Args:
        path: a file written by `write_records`, without the shard's number, or any MindRecord file.

    Returns:
        list of paths.

    Raises:
        UserError: a file is missing, without its .db, renamed, not a MindRecord, damaged, or not as it was written.
    """
    path = os.fspath(path)
    first = path if os.path.isfile(path) else min(find_shards(path), default=None)
    if first is None:
        raise UserError(f"no MindRecord file {path}; make it with the verb prepare")
    names = shard_names(first)
    files = [os.path.join(os.path.dirname(first), name) for name in names]
    if os.path.basename(first) not in names:
        raise UserError(f"{first} was renamed from {names[0]}, which MindRecord does not allow; "
                        f"name it {names[0]} again")
    for file in files:
        for part in (file, file + ".db"):
            if not os.path.isfile(part):
                raise UserError(f"{part} is missing next to {first}; copy both, or prepare the records again")
    _check_manifest(first, files)
    for file in files:
        _check_index(file, read_header(file))
    return files


def count_records(path):
    """The number of records of a data set. Raises UserError as `record_files` does."""
    return sum(_query(file, "SELECT COUNT(*) FROM INDEXES") for file in record_files(path))


def record_columns(path):
    """Names of the columns of a data set. Raises UserError as `record_files` does."""
    return list(read_header(record_files(path)[0])["schema"][0]["schema"])


def find_shards(path):
    """Existing files PATH0, PATH1, ..., with any number of digits."""
    folder, name = os.path.split(path)
    if not os.path.isdir(folder or "."):
        return []
    pattern = re.compile(re.escape(name) + r"\d+")
    return [os.path.join(folder, file) for file in os.listdir(folder or ".") if pattern.fullmatch(file)]


# ------------------------------------------------------------------------------------------------------ manifest

def load_manifest(path):
    """Load PATH.json; None if it is missing, damaged or no manifest."""
    try:
        with open(os.fspath(path) + ".json", encoding="utf-8") as file:
            manifest = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or not _MANIFEST <= set(manifest) or not isinstance(manifest["files"], dict):
        return None
    # `prepare --overwrite` deletes the listed files, so none may be outside the folder.
    if not all(re.fullmatch(re.escape(os.path.basename(os.fspath(path))) + r"\d*(\.db)?", name)
               for name in manifest["files"]):
        return None
    # Manifests of older releases have no checksums.
    signed = {"checksum", "checksums"} & set(manifest)
    return None if signed and manifest.get("checksum") != _own_checksum(manifest) else manifest


def signed_manifest(manifest, parts):
    """Add the sizes and checksums of the files `parts`, and its own checksum, to a manifest."""
    manifest = {**manifest, "files": {os.path.basename(part): os.path.getsize(part) for part in parts},
                "checksums": {os.path.basename(part): _checksum(part) for part in parts}}
    return {**manifest, "checksum": _own_checksum(manifest)}


def _own_checksum(manifest):
    rest = {name: value for name, value in manifest.items() if name != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def _check_manifest(first, files):
    """Compare the files with the manifest of their data set, if there is one."""
    # The manifest's name has no shard number.
    path = first if os.path.exists(first + ".json") else re.sub(r"\d+$", "", first)
    if not os.path.exists(path + ".json"):
        return
    manifest = load_manifest(path)
    if manifest is None:
        raise UserError(f"{path}.json is damaged or does not belong to these records; {REMEDY}")
    parts = {os.path.basename(part): part for file in files for part in (file, file + ".db")}
    if set(parts) != set(manifest["files"]):
        raise UserError(f"{first} is not one of the records that {path}.json lists; {REMEDY}")
    for name, part in parts.items():
        status = os.stat(part)
        if status.st_size != manifest["files"][name]:
            raise UserError(f"{part} has {status.st_size} bytes, but {manifest['files'][name]} were written; {REMEDY}")
        if "checksums" in manifest and _checksum_once(
                part, status.st_size, status.st_mtime_ns, status.st_ino) != manifest["checksums"].get(name):
            raise UserError(f"{part} is damaged: its checksum is not that of the bytes written; {REMEDY}")


def _checksum(path):
    checksum = 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                checksum = zlib.crc32(chunk, checksum)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the disk") from None
    return checksum


@functools.lru_cache(maxsize=4096)
def _checksum_once(path, *_):
    """Checksum of a file, cached by path, size, modification time and inode."""
    return _checksum(path)


# ------------------------------------------------------------------------------------------------ header and index

def shard_names(file):
    """Names of all shards of a MindRecord, from the header of one."""
    return [os.path.basename(address) for address in read_header(file)["shard_addresses"]]


def read_header(file):
    """The JSON header of a MindRecord file: 8 bytes of length, then the text. Raises UserError if it has none."""
    try:
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length < MAX_HEADER else None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; check the path") from None
    except (ValueError, RecursionError):
        header = None
    if not _fits(header, _HEADER) or not _consistent(header):
        raise UserError(f"{file} is not a MindRecord file, or damaged; make one with the verb prepare")
    return header


def _fits(value, form):
    """Whether a JSON value has the form of `_HEADER`."""
    if isinstance(form, dict):
        return isinstance(value, dict) and all(key in value and _fits(value[key], part) for key, part in form.items())
    if isinstance(form, list):
        return isinstance(value, list) and all(_fits(entry, form[0]) for entry in value)
    # bool is a subclass of int, and the reader's numbers have 64 bits
    return type(value) is form and (form is not int or 0 <= value < 2 ** 63)


def _consistent(header):
    """Whether the entries of a header refer to one another correctly."""
    fields = header["schema"][0]["schema"] if header["schema"] else {}
    types_valid = all(isinstance(field, dict) and isinstance(field.get("type"), str) for field in fields.values())
    pages = header["page"]
    return (types_valid and bool(fields) and header["page_size"] > 0 and bool(header["shard_addresses"])
            and all(entry["schema_id"] == 0 and entry["index_field"] in fields for entry in header["index_fields"])
            and set(header["schema"][0]["blob_fields"]) <= set(fields)
            and sorted(page["page_id"] for page in pages) == list(range(len(pages)))
            and all(page["page_size"] <= header["page_size"] for page in pages))


def _check_index(file, header):
    """Raise UserError if the index is that of another file or points outside the file, or the file is cut short."""
    name = _query(file, "SELECT NAME FROM SHARD_NAME")
    if name != os.path.basename(file):
        raise UserError(f"{file}.db is the index of {name}; copy the pair again under its own names")
    rows = _query(file, "SELECT COUNT(*) FROM INDEXES")
    # The reader asks for each row by its number, through the table's own index.
    numbers = _query(file, "SELECT COUNT(DISTINCT ROW_ID) FROM INDEXES")
    if numbers != rows or _query(file, "PRAGMA integrity_check(1)") != "ok":
        raise UserError(f"{file}.db is damaged: rows cannot be found in it; {REMEDY}")
    if not rows or _query(file, _BAD_ROWS, {"size": header["page_size"], "pages": len(header["page"]), "rows": rows}):
        raise UserError(f"{file}.db is damaged: it points to places outside the file; {REMEDY}")
    size = header["header_size"] + header["page_size"] * (len(header["page"]) - 1)
    if os.path.getsize(file) <= size:
        raise UserError(f"{file} is cut short; {REMEDY}")


def _query(file, query, values=()):
    """First value of a query's result from the SQLite index of a MindRecord file, opened read-only."""
    connection = sqlite3.connect(f"file:{_uri(file)}.db?mode=ro&immutable=1", uri=True)
    try:
        return connection.execute(query, values).fetchone()[0]
    # ValueError: damaged text is not UTF-8; TypeError: an empty table has no row.
    except (sqlite3.Error, TypeError, ValueError):
        raise UserError(f"{file}.db is not the index of a MindRecord file; prepare the records again") from None
    finally:
        connection.close()


def _uri(file):
    return os.path.abspath(file).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
