"""Are MindRecord files whole? Judged before MindSpore's reader gets them, which ends the process where they are not.

Files with a manifest (PATH.json) are compared with its checksums; others, such as the course's, by what their header
and their index say of themselves.
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
AGAIN = "copy it again, or prepare the records again"
# What the reader takes for granted: a type, a list of one kind of entries, or a mapping with at least these keys.
_PAGE = {"page_id": int, "page_type": str, "page_type_id": int, "page_size": int, "shard_id": int, "start_row_id": int,
         "end_row_id": int, "row_group_ids": [{"id": int, "offset": int}]}
_HEADER = {"header_size": int, "page_size": int, "shard_id": int, "version": str, "shard_addresses": [str],
           "index_fields": [{"index_field": str, "schema_id": int}], "page": [_PAGE],
           "schema": [{"blob_fields": [str], "desc": str, "schema": dict}]}
_MANIFEST = {"count", "labels", "shards", "fingerprint", "contents", "skipped", "files"}
_OFFSETS = ("PAGE_OFFSET_RAW", "PAGE_OFFSET_RAW_END", "PAGE_OFFSET_BLOB", "PAGE_OFFSET_BLOB_END")
_BAD_ROWS = f"""SELECT COUNT(*) FROM INDEXES WHERE
    NOT ({' AND '.join(f"typeof({name}) = 'integer'" for name in ('ROW_ID', 'PAGE_ID_RAW', 'PAGE_ID_BLOB', *_OFFSETS))}
         AND 0 <= PAGE_OFFSET_RAW AND PAGE_OFFSET_RAW < PAGE_OFFSET_RAW_END AND PAGE_OFFSET_RAW_END <= :size
         AND 0 <= PAGE_OFFSET_BLOB AND PAGE_OFFSET_BLOB < PAGE_OFFSET_BLOB_END AND PAGE_OFFSET_BLOB_END <= :size
         AND PAGE_ID_RAW BETWEEN 0 AND :pages - 1 AND PAGE_ID_BLOB BETWEEN 0 AND :pages - 1
         AND ROW_ID BETWEEN 0 AND :rows - 1)"""

def record_files(path):
    """The MindRecord files of a data set, in order, whole as far as can be told; a manifest is not needed.

    With a manifest every byte is read once per process, at the speed of CRC-32.

    Args:
        path: a file written by `write_records`, without the shard's number, or any MindRecord file.

    Returns:
        list of paths.

    Raises:
        UserError: missing, without its .db, renamed, not a MindRecord, damaged, or other bytes than were written.
    """
    path = os.fspath(path)
    first = path if os.path.isfile(path) else min(shards_beside(path), default=None)
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
                raise UserError(f"{part} is missing beside {first}; copy both, or prepare the records again")
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


def shards_beside(path):
    """PATH0, PATH1, ... with as many digits each as MindRecord gives them."""
    folder, name = os.path.split(path)
    if not os.path.isdir(folder or "."):
        return []
    pattern = re.compile(re.escape(name) + r"\d+")
    return [os.path.join(folder, file) for file in os.listdir(folder or ".") if pattern.fullmatch(file)]


# ------------------------------------------------------------------------------------------------------ manifest

def load_manifest(path):
    """PATH.json, or None where it is not there, damaged, or something else."""
    try:
        with open(os.fspath(path) + ".json", encoding="utf-8") as file:
            manifest = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or not _MANIFEST <= set(manifest) or not isinstance(manifest["files"], dict):
        return None
    # `prepare --overwrite` deletes the files that it names: none outside the folder.
    if not all(re.fullmatch(re.escape(os.path.basename(os.fspath(path))) + r"\d*(\.db)?", name)
               for name in manifest["files"]):
        return None
    # Those of older releases have no checksums.
    signed = {"checksum", "checksums"} & set(manifest)
    return None if signed and manifest.get("checksum") != _own_checksum(manifest) else manifest


def signed_manifest(manifest, parts):
    """A manifest with the sizes and checksums of the files `parts`, and its own."""
    manifest = {**manifest, "files": {os.path.basename(part): os.path.getsize(part) for part in parts},
                "checksums": {os.path.basename(part): _checksum(part) for part in parts}}
    return {**manifest, "checksum": _own_checksum(manifest)}


def _own_checksum(manifest):
    rest = {name: value for name, value in manifest.items() if name != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def _check_manifest(first, files):
    """Compare the files with the manifest of their data set, where there is one."""
    # A shard's number is not in the manifest's name.
    whole = first if os.path.exists(first + ".json") else re.sub(r"\d+$", "", first)
    if not os.path.exists(whole + ".json"):
        return
    manifest = load_manifest(whole)
    if manifest is None:
        raise UserError(f"{whole}.json is damaged or does not belong to these records; {AGAIN}")
    parts = {os.path.basename(part): part for file in files for part in (file, file + ".db")}
    if set(parts) != set(manifest["files"]):
        raise UserError(f"{first} is not of the records that {whole}.json lists; {AGAIN}")
    for name, part in parts.items():
        status = os.stat(part)
        if status.st_size != manifest["files"][name]:
            raise UserError(f"{part} has {status.st_size} bytes, but {manifest['files'][name]} were written; {AGAIN}")
        if "checksums" in manifest and _checksum_once(
                part, status.st_size, status.st_mtime_ns, status.st_ino) != manifest["checksums"].get(name):
            raise UserError(f"{part} is damaged: its checksum is not that of the bytes written; {AGAIN}")


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
    """The checksum, read again only where size, time or place of the file are others."""
    return _checksum(path)


# ------------------------------------------------------------------------------------------------ header and index

def shard_names(file):
    """The names of all shards of a MindRecord, from the header of one."""
    return [os.path.basename(address) for address in read_header(file)["shard_addresses"]]


def read_header(file):
    """The JSON header of a MindRecord file: 8 bytes of length, then the text. Raises UserError where it is none."""
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
    if isinstance(form, dict):
        return isinstance(value, dict) and all(name in value and _fits(value[name], of) for name, of in form.items())
    if isinstance(form, list):
        return isinstance(value, list) and all(_fits(entry, form[0]) for entry in value)
    # bool is a subclass of int, and the reader's numbers have 64 bits
    return type(value) is form and (form is not int or 0 <= value < 2 ** 63)


def _consistent(header):
    """Whether the entries of a header of the right form point to one another."""
    fields = header["schema"][0]["schema"] if header["schema"] else {}
    typed = all(isinstance(field, dict) and isinstance(field.get("type"), str) for field in fields.values())
    pages = header["page"]
    return (typed and bool(fields) and header["page_size"] > 0 and bool(header["shard_addresses"])
            and all(entry["schema_id"] == 0 and entry["index_field"] in fields for entry in header["index_fields"])
            and set(header["schema"][0]["blob_fields"]) <= set(fields)
            and sorted(page["page_id"] for page in pages) == list(range(len(pages)))
            and all(page["page_size"] <= header["page_size"] for page in pages))


def _check_index(file, header):
    """Refuse an index of another file, or one whose rows lie outside the file."""
    name = _query(file, "SELECT NAME FROM SHARD_NAME")
    if name != os.path.basename(file):
        raise UserError(f"{file}.db is the index of {name}; copy the pair again under its own names")
    rows = _query(file, "SELECT COUNT(*) FROM INDEXES")
    if not rows or _query(file, _BAD_ROWS, {"size": header["page_size"], "pages": len(header["page"]), "rows": rows}):
        raise UserError(f"{file}.db is damaged: it points to places outside the file; {AGAIN}")
    size = header["header_size"] + header["page_size"] * (len(header["page"]) - 1)
    if os.path.getsize(file) <= size:
        raise UserError(f"{file} is cut short; {AGAIN}")


def _query(file, question, values=()):
    """The first value of an answer of the SQLite index of a MindRecord file, opened for reading only."""
    connection = sqlite3.connect(f"file:{_uri(file)}.db?mode=ro&immutable=1", uri=True)
    try:
        return connection.execute(question, values).fetchone()[0]
    # a damaged text is no UTF-8, an empty table has no row
    except (sqlite3.Error, TypeError, ValueError):
        raise UserError(f"{file}.db is not the index of a MindRecord file; prepare the records again") from None
    finally:
        connection.close()


def _uri(file):
    return os.path.abspath(file).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
